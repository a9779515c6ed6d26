//! The archive of `make dist`, unpacked.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

fn output(program: &str, arguments: &[&str], directory: &Path) -> Output {
    let output = Command::new(program).args(arguments).current_dir(directory).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn text(program: &str, arguments: &[&str], directory: &Path) -> String {
    String::from_utf8(output(program, arguments, directory).stdout).unwrap()
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folder() -> PathBuf {
    repository().join("target/dist/archive")
}

/// Name of the archive without `.tar.gz`.
fn name() -> String {
    let names =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let archives: Vec<String> =
        names.filter_map(|name| Some(name.strip_suffix(".tar.gz")?.to_owned())).collect();
    let [name] = &*archives else { panic!("one archive, please: {archives:?}") };
    name.clone()
}

/// The archive unpacked, and its root.
fn unpacked() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let archive = folder().join(format!("{}.tar.gz", name()));
    output("tar", &["-xf", archive.to_str().unwrap()], directory.path());
    let root = directory.path().join(name());
    assert!(root.is_dir(), "{} has another root", archive.display());
    (directory, root)
}

/// Name and version of each crate in a CycloneDX document, the program's own included.
fn listed(document: &Path) -> BTreeSet<(String, String)> {
    let document: serde_json::Value = serde_json::from_slice(&fs::read(document).unwrap()).unwrap();
    assert_eq!((&document["bomFormat"], &document["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let root = &document["metadata"]["component"];
    let all = document["components"].as_array().unwrap().iter().chain([root]);
    all.map(|one| ["name", "version"].map(|key| one[key].as_str().unwrap().to_owned()).into()).collect()
}

#[test]
#[ignore = "needs the archive: make test-dist"]
fn the_program_starts_and_every_checksum_is_right() {
    let (_directory, root) = unpacked();
    let version = text("bin/outboxd", &["--version"], &root);
    assert_eq!(version.trim(), format!("outboxd {}", env!("CARGO_PKG_VERSION")));
    output("sha256sum", &["--check", "--strict", "SHA256SUMS"], &root);
    output("sha256sum", &["--check", "--strict", "SHA256SUMS"], &folder());
    // Every file has a checksum.
    let summed = fs::read_to_string(root.join("SHA256SUMS")).unwrap().lines().count();
    assert_eq!(text("find", &[".", "-type", "f"], &root).lines().count(), summed + 1);
    for file in [
        "share/man/man1/outboxd.1",
        "share/man/man5/outboxd.toml.5",
        "share/bash-completion/completions/outboxd",
        "share/zsh/site-functions/_outboxd",
        "share/fish/vendor_completions.d/outboxd.fish",
        "lib/systemd/system/outboxd.service",
        "lib/systemd/system/outboxd@.service",
        "etc/outboxd/outboxd.toml",
        "share/doc/outboxd/examples/outboxd.toml",
        "share/doc/outboxd/THIRD-PARTY-NOTICES",
        "share/doc/outboxd/LICENSE-APACHE",
        "share/doc/outboxd/LICENSE-MIT",
    ] {
        assert!(root.join(file).is_file(), "{file}");
    }
    // The example is the documented one, and valid.
    let example = root.join("share/doc/outboxd/examples/outboxd.toml");
    output("bin/outboxd", &["--config", example.to_str().unwrap(), "check", "--offline"], &root);
}

#[test]
#[ignore = "needs the archive: make test-dist"]
fn the_list_of_crates_is_what_cargo_builds() {
    let (_directory, root) = unpacked();
    let tree = [
        "tree",
        "--locked",
        "--package",
        "outboxd",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ];
    let tree = text(env!("CARGO"), &tree, repository());
    let built: BTreeSet<(String, String)> = tree
        .lines()
        .map(|line| {
            let mut words = line.split(' ');
            let (name, version) = (words.next().unwrap(), words.next().unwrap());
            (name.to_owned(), version.trim_start_matches('v').to_owned())
        })
        .collect();
    assert!(built.len() > 100, "{built:?}");
    for document in
        [root.join("share/doc/outboxd/outboxd.cdx.json"), folder().join(format!("{}.cdx.json", name()))]
    {
        assert_eq!(listed(&document), built, "{}", document.display());
    }
    // The notices have the crates that are in the program, which are fewer: a macro's crates stay outside.
    let notices = fs::read_to_string(root.join("share/doc/outboxd/THIRD-PARTY-NOTICES")).unwrap();
    let within = [
        "tree",
        "--locked",
        "--package",
        "outboxd",
        "--edges",
        "normal,no-proc-macro",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ];
    for line in text(env!("CARGO"), &within, repository()).lines().filter(|line| !line.contains("(/")) {
        let package = line.trim_end_matches(" (*)").replace(" v", " ");
        assert!(notices.contains(&format!("\n{package}\n")), "the notices lack {package}");
    }
}

#[test]
#[ignore = "needs the archive: make test-dist"]
fn the_program_runs_on_debian_12_and_the_archive_is_nobodys() {
    let (_directory, root) = unpacked();
    let symbols = text("objdump", &["-T", "bin/outboxd"], &root);
    let versions = symbols.split("GLIBC_").skip(1).filter_map(|rest| {
        let version = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        version.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>().ok()
    });
    let newest = versions.max().unwrap();
    assert!(newest >= vec![2, 2] && newest <= vec![2, 36], "glibc {newest:?}");
    let archive = folder().join(format!("{}.tar.gz", name()));
    let content = text("tar", &["--numeric-owner", "-tvf", archive.to_str().unwrap()], &root);
    let (mut owners, mut times) = (BTreeSet::new(), BTreeSet::new());
    for line in content.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        owners.insert(words[1]);
        times.insert((words[3], words[4]));
    }
    assert_eq!(owners, ["0/0"].into(), "{content}");
    assert_eq!(times.len(), 1, "{times:?}");
}
