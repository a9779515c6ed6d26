//! chromedriver with the browser that it starts: one process group, which ends as a whole.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use testkit::{
    http,
    ports::Port,
    process::{self, Process},
    run,
};

/// Running chromedriver. Dropping it ends every process of its group and removes its folder, with the browser's profile.
pub(crate) struct Driver {
    process: Process,
    port: Port,
    folder: PathBuf,
}

impl Driver {
    /// Starts chromedriver and waits until it answers.
    pub(crate) async fn start() -> Self {
        let folder = run::folder("browser");
        let port = Port::reserve();
        let mut command = process::command("chromedriver");
        command.arg(format!("--port={}", port.number()));
        // What a browser writes beside its profile stays in the folder, too.
        for variable in ["HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            command.env(variable, &folder);
        }
        let process = Process::spawn(command, &folder, &folder.join("log"));
        let mut driver = Self { process, port, folder };
        driver.wait_ready().await;
        driver
    }

    async fn wait_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !matches!(http::get(self.port.number(), "/status").await, Ok((status, _)) if status.is_success())
        {
            let log = || process::tail(&self.folder.join("log"));
            if let Some(status) = self.process.ended() {
                panic!("chromedriver ended ({status}); `make test-page` installs it; {}", log());
            }
            assert!(Instant::now() < deadline, "chromedriver does not answer; {}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// URL of the WebDriver protocol.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// Folder of the browser's files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Processes of the group: chromedriver and the browser's.
    pub(crate) fn group(&self) -> Vec<u32> {
        members(self.process.pid())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let group = self.process.pid();
        // chromedriver is the leader of its session and of its group.
        let _ = Command::new("sh")
            .args(["-c", r#"kill -s KILL -- "-$1""#, "sh", &group.to_string()])
            .stderr(Stdio::null())
            .status();
        let deadline = Instant::now() + Duration::from_secs(10);
        while members(group).iter().any(|&pid| process::is_running(pid)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        if std::thread::panicking() {
            eprintln!("{}", process::tail(&self.folder.join("log")));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Processes of a session or a group, by the fifth and sixth field of proc(5), stat.
fn members(leader: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let belongs = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let leader = leader.to_string();
        Some(fields.get(2)? == &leader || fields.get(3)? == &leader)
    };
    ids.filter(|pid| belongs(pid) == Some(true)).collect()
}
