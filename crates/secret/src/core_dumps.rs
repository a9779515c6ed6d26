//! No core dumps: a process that holds passwords leaves no copy of its memory on a disk.

/// Has the kernel write no core dump of this process, whatever the limits and the handler of core dumps say; users other than root
/// can neither trace it nor read its memory. For `main`, before a secret is read.
pub fn forbid() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // Only a kernel that does not know the call refuses it. A limit of 0 is the rest of what can be done.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
    use rustix::process::{Resource, Rlimit, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}
