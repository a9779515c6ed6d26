//! helm, helm-unittest and kubernetes-validate, as tests/kubernetes/install.sh puts them into target/tools.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::manifests::path;

/// The chart.
pub(crate) const CHART: &str = "kubernetes/outboxd";

/// Variables that keep helm's own files in target, and the folder of each.
pub(crate) const HELM_HOMES: [(&str, &str); 3] =
    [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")];

/// A folder of helm's own.
pub(crate) fn helm_home(folder: &str) -> PathBuf {
    path("target/tools/helm").join(folder)
}

/// What a tool said.
pub(crate) struct Said {
    pub(crate) succeeded: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { succeeded: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Said {
    /// The output. Fails when the tool failed.
    pub(crate) fn ok(self, what: &str) -> String {
        assert!(self.succeeded, "{what}: {}{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs helm from the repository's root. It reads and writes nothing outside of target, and knows no cluster.
pub(crate) fn helm(arguments: &[&str]) -> Said {
    let mut command = tool("target/tools/bin/helm");
    for (variable, folder) in HELM_HOMES {
        command.env(variable, helm_home(folder));
    }
    command.env("KUBECONFIG", "/dev/null").args(arguments).output().unwrap().into()
}

/// Renders the chart with a file of tests/kubernetes/values.
pub(crate) fn render(values: &str, more: &[&str]) -> Said {
    let file = format!("tests/kubernetes/values/{values}.yaml");
    helm(&[&["template", "outboxd", CHART, "--namespace", "shop", "--values", &file], more].concat())
}

/// Renders the example of a sidecar. helm keeps a copy of the chart in the example's folder, so that a copy of both is used.
pub(crate) fn render_example() -> String {
    let folder = tempfile::tempdir_in(path("target")).unwrap();
    copy(&path("kubernetes"), &folder.path().join("kubernetes"));
    let example = folder.path().join("kubernetes/examples/application").display().to_string();
    helm(&["dependency", "build", &example]).ok("helm dependency build");
    helm(&["lint", "--strict", &example]).ok("helm lint");
    helm(&["template", "application", &example]).ok("helm template")
}

/// Runs the unit tests of the chart.
pub(crate) fn unit_tests() -> Said {
    let suites = "../../tests/kubernetes/unit/*_test.yaml";
    tool("target/tools/bin/helm-unittest")
        .args(["--strict", "--file", suites, CHART])
        .output()
        .unwrap()
        .into()
}

/// Validates files against the schemas of a version of Kubernetes. Fields that a schema does not know are problems.
pub(crate) fn validate(files: &[PathBuf], version: &str) -> Said {
    let mut command = tool("target/tools/kubernetes/bin/kubernetes-validate");
    command.args(["--strict", "--kubernetes-version", version]).args(files).output().unwrap().into()
}

fn tool(relative: &str) -> Command {
    let program: PathBuf = path(relative);
    assert!(program.exists(), "{relative} is not there: make test-kubernetes installs it");
    let mut command = Command::new(program);
    command.current_dir(path("."));
    command
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy(&from, &to) } else { fs::copy(&from, &to).map(drop).unwrap() }
    }
}
