//! Wall clocks that jump: a small library, built from `clock.c` and preloaded into a process, shifts the time that the process
//! reads.

use std::{fs, io::Write, path::PathBuf, process::Command};

use testkit::run;

const SOURCE: &str = include_str!("clock.c");

/// The wall clock of processes with this environment.
pub(crate) struct Clock {
    library: PathBuf,
    shift: PathBuf,
}

impl Clock {
    /// Several clocks that show the machine's time. `None` without a C compiler that builds the library.
    pub(crate) fn several<const N: usize>() -> Option<[Clock; N]> {
        let folder = run::folder("clock");
        let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
        fs::write(&source, SOURCE).expect("source written");
        let built =
            Command::new("cc").args(["-O2", "-shared", "-fPIC", "-o"]).args([&library, &source]).status();
        built.is_ok_and(|status| status.success()).then(|| {
            std::array::from_fn(|number| {
                let clock = Clock { library: library.clone(), shift: folder.join(format!("shift-{number}")) };
                clock.jump(0);
                clock
            })
        })
    }

    /// Shifts the clock: the machine's time plus this many seconds.
    pub(crate) fn jump(&self, seconds: i64) {
        // The mapped file must not be truncated.
        let mut file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&self.shift)
            .expect("opened");
        file.write_all(&seconds.to_ne_bytes()).expect("shift written");
    }

    /// Environment variables that give a process this clock.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        [("LD_PRELOAD", &self.library), ("CHAOS_CLOCK", &self.shift)]
            .map(|(name, path)| (name.to_owned(), path.display().to_string()))
            .to_vec()
    }
}

#[test]
fn a_clock_jumps_and_comes_back() {
    let [clock] = Clock::several().expect("a C compiler");
    let seconds = || {
        let output = Command::new("date").arg("+%s").envs(clock.environment()).output().expect("date runs");
        String::from_utf8_lossy(&output.stdout).trim().parse::<i64>().expect("seconds")
    };
    let start = seconds();
    clock.jump(-86_400);
    assert!((start - 86_400..start - 86_000).contains(&seconds()));
    clock.jump(0);
    assert!((start..start + 400).contains(&seconds()));
}
