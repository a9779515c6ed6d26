//! Full pipe that nobody reads, as the stderr of a program whose supervisor has stopped reading.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use super::run;

/// Named pipe, open for reading and full.
#[derive(Debug)]
pub struct UnreadPipe {
    path: PathBuf,
    /// Opened for reading and writing, which on Linux does not wait.
    end: File,
}

impl UnreadPipe {
    /// Creates a full pipe.
    pub fn create() -> Self {
        let path = run::folder("pipe").join("stderr");
        let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo, of coreutils, runs");
        assert!(made.success(), "no pipe at {}", path.display());
        let end = OpenOptions::new().read(true).write(true).open(&path).expect("a pipe can be opened");
        let pipe = Self { path, end };
        pipe.fill();
        pipe
    }

    /// Returns the path for a program's output.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes until a write blocks. The writing thread stays until somebody reads.
    fn fill(&self) {
        let mut writer = self.end.try_clone().expect("a file can be duplicated");
        let (written, progress) = mpsc::channel();
        thread::spawn(move || while writer.write_all(b"full\n").is_ok() && written.send(()).is_ok() {});
        while progress.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {}
    }

    /// Reads everything from now on into the returned text.
    pub fn read(&self) -> Arc<Mutex<String>> {
        let text = Arc::new(Mutex::new(String::new()));
        let (mut reader, shared) =
            (self.end.try_clone().expect("a file can be duplicated"), Arc::clone(&text));
        thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                shared.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        text
    }
}
