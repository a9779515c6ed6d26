//! Debian with systemd, PostgreSQL and RabbitMQ, booted in namespaces of its own: for tests of units and packages. Needs root,
//! debootstrap and systemd-nspawn.
//!
//! The root is made once, in `target/booted-root/bookworm`. Each test boots a copy, an overlay in the run's folder. The copy has a
//! network of its own, with nothing but a loopback; [`BootedRoot::forward`] lets a test in. Nothing of the machine is touched, and
//! everything ends with the handle, or with the run.
//!
//! A test writes the root's files through [`BootedRoot::path`], and runs commands in it with [`BootedRoot::shell`].

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, UnixStream},
};

use super::{
    process::{self, Process},
    run,
};

const SCRIPT: &str = include_str!("booted_root.sh");

/// Packages of the root beside Debian's base. A change makes the root anew.
const PACKAGES: &str =
    "bash-completion,ca-certificates,dbus,man-db,postgresql,rabbitmq-server,socat,sudo,systemd,systemd-sysv";

/// Longest start, until no unit waits any more. RabbitMQ takes most of it.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// Longest end of all services.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(120);

/// A running copy of the root. Dropping it ends all its processes and removes the copy.
#[derive(Debug)]
pub struct BootedRoot {
    folder: PathBuf,
    process: Process,
    /// The root's systemd, as this machine numbers it.
    init: u32,
}

impl BootedRoot {
    /// Boots a copy, and waits until its services have started: PostgreSQL on port 5432, RabbitMQ on port 5672. The first call on a
    /// machine makes the root, which takes minutes.
    pub async fn start() -> Self {
        let folder = run::folder("booted-root");
        let script = folder.join("booted_root.sh");
        fs::write(&script, SCRIPT).expect("script written");
        let base = run::target_directory().join("booted-root/bookworm");
        let made = process::short_command("sh")
            .arg(&script)
            .arg("make")
            .arg(&base)
            .arg(PACKAGES)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .status()
            .await
            .expect("a shell");
        assert!(made.success(), "no root in {}", base.display());
        let copy = folder.join("copy");
        let mut command = process::command("sh");
        command.arg(&script).arg("boot").arg(&base).arg(&copy);
        let process = Process::spawn(command, &folder, &folder.join("console.log"));
        let mut root = Self { folder, process, init: 0 };
        root.init = root.wait_for_init().await;
        // Fails without a bus; says `degraded` for a failed unit, which a test sees better by itself.
        let deadline = Instant::now() + BOOT_LIMIT;
        loop {
            let said = root.run("systemctl is-system-running").await;
            let said = String::from_utf8_lossy(&said.stdout);
            if ["running", "degraded"].contains(&said.trim()) {
                break root;
            }
            assert!(Instant::now() < deadline, "the root is {said} for long; {}", root.console());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Path on this machine of an absolute path in the root.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// Copies a file of this machine into the root, with its mode.
    pub fn copy_in(&self, file: &Path, inside: &str) {
        fs::copy(file, self.path(inside))
            .unwrap_or_else(|error| panic!("cannot copy {} to {inside}: {error}", file.display()));
    }

    /// Runs a shell script as root of the booted root, in /root, to its end.
    pub async fn run(&self, script: &str) -> Output {
        let mut command = self.inside();
        command.args(["sh", "-c", script]);
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true).output().await.expect("nsenter runs")
    }

    /// As [`run`](Self::run). Returns what the script printed.
    ///
    /// # Panics
    ///
    /// The script failed. Use `set -e` for more than one command.
    pub async fn shell(&self, script: &str) -> String {
        let output = self.run(script).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script}\nended with {}\n{out}\n{err}", output.status);
        out.into_owned()
    }

    /// Messages of a unit in the journal, one a line: its own, and systemd's about it.
    pub async fn journal(&self, unit: &str) -> String {
        self.shell(&format!("journalctl --sync; journalctl --no-pager --output=short-precise --unit={unit}"))
            .await
    }

    /// One property of a unit: `systemctl show`.
    pub async fn property(&self, unit: &str, name: &str) -> String {
        self.shell(&format!("systemctl show --value --property={name} {unit}")).await.trim().to_owned()
    }

    /// Waits until a property of a unit has a value. Panics after `limit`, with the journal.
    pub async fn wait_for(&self, unit: &str, name: &str, value: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let now = self.property(unit, name).await;
            if now == value {
                return;
            }
            if Instant::now() > deadline {
                panic!("{unit}: {name} is {now:?}, not {value:?}\n{}", self.journal(unit).await);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Opens a port of 127.0.0.1 of this machine that leads to a port of the root's 127.0.0.1. Returns it. The port is served by a
    /// task of the calling runtime.
    pub async fn forward(&self, port: u16) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let local = listener.local_addr().expect("an address").port();
        let init = self.init;
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut command = inside(init);
                command.args(["socat", "-", &format!("TCP:127.0.0.1:{port}")]);
                let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
                let input = std::os::fd::OwnedFd::from(theirs);
                let output = input.try_clone().expect("a socket can be duplicated");
                command.stdin(input).stdout(output).stderr(Stdio::null());
                let mut command = tokio::process::Command::from(command);
                let mut socat = command.kill_on_drop(true).spawn().expect("nsenter runs");
                // The command holds the other end of the pair.
                drop(command);
                tokio::spawn(async move {
                    ours.set_nonblocking(true).expect("a socket");
                    let mut ours = UnixStream::from_std(ours).expect("a socket of this runtime");
                    let _ = copy_bidirectional(&mut client, &mut ours).await;
                    let _ = socat.kill().await;
                });
            }
        });
        local
    }

    /// Powers the root off as a machine, with the end of every service.
    ///
    /// # Panics
    ///
    /// The services do not end within two minutes.
    pub async fn power_off(mut self) {
        let _ = self.run("systemctl poweroff").await;
        let ended = self.process.wait(POWER_OFF_LIMIT).await;
        assert!(ended.is_some(), "the root does not power off; {}", self.console());
    }

    fn inside(&self) -> Command {
        inside(self.init)
    }

    fn console(&self) -> String {
        process::tail(&self.folder.join("console.log"))
    }

    /// Returns the root's first process: the only one below the script that is number 1 in a namespace within a namespace.
    async fn wait_for_init(&mut self) -> u32 {
        let deadline = Instant::now() + BOOT_LIMIT;
        loop {
            let mut below = vec![self.process.pid()];
            let mut next = 0;
            while next < below.len() {
                let pid = below[next];
                below.extend(process::children(pid));
                next += 1;
            }
            if let Some(init) = below.into_iter().find(|pid| is_init(*pid)) {
                return init;
            }
            if let Some(status) = self.process.ended() {
                panic!("the root did not boot ({status}); {}", self.console());
            }
            assert!(Instant::now() < deadline, "the root does not boot; {}", self.console());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for BootedRoot {
    fn drop(&mut self) {
        // The script ends the namespaces and removes its cgroups.
        self.process.signal("TERM");
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.process.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        run::sweep(&self.folder);
    }
}

/// Returns a command that enters the namespaces of the root, to complete with a program of the root.
fn inside(init: u32) -> Command {
    let mut command = Command::new("nsenter");
    command
        .args([
            "--all",
            "--wdns=/root",
            "--target",
            &init.to_string(),
            "--",
            "env",
            "-i",
            "HOME=/root",
            "LANG=C.UTF-8",
        ])
        .arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null());
    command
}

/// Tells whether a process is systemd as number 1 of a namespace within the namespace of the script.
fn is_init(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let ids: Vec<&str> = ids.unwrap_or_default().split_whitespace().collect();
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    ids.len() >= 3 && ids.last() == Some(&"1") && name.trim() == "systemd"
}
