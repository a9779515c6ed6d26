//! Core dumps: a process that holds passwords writes none.

/// Stops the kernel from writing a core dump of this process, whatever its limits and the handler of core dumps.
/// Users other than root can then neither trace the process nor read its memory. Call it in `main`, before a secret
/// is read.
pub fn forbid() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // Only a kernel without this call refuses it. A limit of 0 is then all that is possible.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
    use rustix::process::{Resource, Rlimit, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}
