//! A pipe that is full and that nobody reads: the stderr of a program whose supervisor has stopped reading.

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

/// A named pipe, held open at its reading end and filled to the brim.
#[derive(Debug)]
pub struct UnreadPipe {
    path: PathBuf,
    /// On Linux, opening a pipe for both waits for nobody.
    end: File,
}

impl UnreadPipe {
    /// A new one, full.
    pub fn create() -> Self {
        let path = run::folder("pipe").join("stderr");
        let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo, of coreutils, runs");
        assert!(made.success(), "no pipe at {}", path.display());
        let end = OpenOptions::new().read(true).write(true).open(&path).expect("a pipe can be opened");
        let pipe = Self { path, end };
        pipe.fill();
        pipe
    }

    /// What a program is to write to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes until a write is not done in time. The thread that does stays behind, at most until somebody reads.
    fn fill(&self) {
        let mut writer = self.end.try_clone().expect("a file can be duplicated");
        let (written, progress) = mpsc::channel();
        thread::spawn(move || while writer.write_all(b"full\n").is_ok() && written.send(()).is_ok() {});
        while progress.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {}
    }

    /// Reads everything from now on; the text grows.
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
