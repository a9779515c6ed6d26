//! A Secret of Kubernetes as the kubelet mounts it: links to a folder that is exchanged as a whole when the Secret changes.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use testkit::{Daemon, shared_rabbitmq};

use crate::{
    recovery::IN_FLIGHT_MAX,
    stage::{PATIENCE, Stage, eventually, say, source, until_state},
};

/// A mounted Secret with one file.
struct Mount {
    folder: tempfile::TempDir,
}

impl Mount {
    fn new(password: &str) -> Self {
        let mount = Self { folder: tempfile::tempdir().unwrap() };
        // Everybody may make files in a volume of Secrets; the sticky bit keeps those of others.
        fs::set_permissions(mount.folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("..data/rabbitmq-password", mount.password()).unwrap();
        mount.exchange("..first", password);
        mount
    }

    fn password(&self) -> PathBuf {
        self.folder.path().join("rabbitmq-password")
    }

    /// Makes a folder with the new content, and renames a link to it over the old one.
    fn exchange(&self, name: &str, password: &str) {
        let at = |name: &str| self.folder.path().join(name);
        fs::create_dir(at(name)).unwrap();
        let file = at(name).join("rabbitmq-password");
        fs::write(&file, password).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o440)).unwrap();
        symlink(Path::new(name), at("..data_tmp")).unwrap();
        let before = fs::read_link(at("..data")).ok();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        if let Some(before) = before {
            fs::remove_dir_all(self.folder.path().join(before)).unwrap();
        }
    }
}

/// Two pods. The password is changed at the broker first, and the kubelet takes its time.
#[tokio::test]
async fn a_secret_as_the_kubelet_mounts_it_raises_no_warning_and_is_read_anew_when_it_changes() {
    let node = shared_rabbitmq().await;
    let mut stage = Stage::shared("mounted").await;
    stage.workload.pause = std::time::Duration::from_millis(10);
    let user = format!("mounted_{}", stage.name);
    node.create_user(&user, "s3cret-1").await;
    node.allow(&user, &stage.name, [".*"; 3]).await;
    let mount = Mount::new("s3cret-1\n");
    stage.source = format!("delivery.in_flight_max = {IN_FLIGHT_MAX}");
    stage.rabbitmq = format!("username = \"{user}\"\npassword_file = \"{}\"", mount.password().display());
    stage.consume().await;
    let config = stage.run_printed_sql().await;
    let mut pods = Vec::new();
    for _ in 0..2 {
        let mut pod = Daemon::start(&config);
        pod.wait_ready(PATIENCE).await;
        pods.push(pod);
    }
    let said = say(&pods[0], &["check", "--offline"]).await;
    assert_eq!(said.status, 0);
    assert!(said.stdout.contains("no other user of this machine can read or replace one"), "{}", said.stdout);

    let writing = stage.keep_writing();
    stage.receive_more(50).await;
    node.create_user(&user, "s3cret-2").await;
    // Open connections stay with the old password. A new pod would not be ready, and the old ones go on.
    stage.receive_more(50).await;
    node.ctl(&["close_all_user_connections", &user, "rotated"]).await;
    for pod in &pods {
        let reason = until_state(pod, "orders", "halted").await;
        assert!(reason.contains("refuses the login"), "{reason}");
    }
    mount.exchange("..second", "s3cret-2\n");
    eventually("one pod publishes and the other stands by", async || {
        let mut states = Vec::new();
        for pod in &pods {
            states.push(source(pod, "orders").await["state"].as_str().unwrap_or_default().to_owned());
        }
        states.sort();
        states == ["standby", "streaming"]
    })
    .await;
    stage.receive_more(50).await;
    writing.stop().await;
    assert!(stage.verdict().await.keeps_promises());
    for pod in &pods {
        assert!(!pod.log().contains("s3cret"), "{}", pod.log());
    }
}
