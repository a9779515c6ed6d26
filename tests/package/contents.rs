//! What the package is made of is there, and the scripts are scripts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use config::{Config, File, FileFormat};
use serde::Deserialize;

#[derive(Deserialize)]
struct Manifest {
    package: Package,
}

#[derive(Deserialize)]
struct Package {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    deb: Deb,
}

/// The part of Cargo.toml that cargo-deb reads.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Deb {
    maintainer_scripts: String,
    extended_description_file: String,
    /// Source, destination, mode.
    assets: Vec<(String, String, String)>,
    systemd_units: Units,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Units {
    unit_scripts: String,
}

fn deb() -> Deb {
    let text = include_str!("../../Cargo.toml");
    let manifest = Config::builder().add_source(File::from_str(text, FileFormat::Toml)).build().unwrap();
    manifest.try_deserialize::<Manifest>().unwrap().package.metadata.deb
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(directory)).unwrap();
    entries.map(|entry| format!("{directory}/{}", entry.unwrap().file_name().to_str().unwrap())).collect()
}

#[test]
fn every_file_of_the_package_exists_and_is_named() {
    let deb = deb();
    let sources: BTreeSet<String> = deb.assets.iter().map(|(source, ..)| source.clone()).collect();
    // What a build makes is not there yet.
    let made = |source: &&String| source.starts_with("target/");
    assert!(sources.iter().filter(made).count() > 5);
    for source in sources.iter().filter(|source| !made(source)) {
        assert!(root().join(source).is_file(), "{source} is no file");
    }
    let scripts = ["postinst", "prerm", "postrm"].map(|name| format!("{}/{name}", deb.maintainer_scripts));
    let named: BTreeSet<String> =
        sources.into_iter().chain(scripts).chain([deb.extended_description_file]).collect();
    let here = files("release/deb").into_iter().filter(|file| root().join(file).is_file());
    let unused: Vec<_> = here.filter(|file| !named.contains(file)).collect();
    assert!(unused.is_empty(), "in release/deb, and not in the package: {unused:?}");
    assert_eq!(
        files(&deb.systemd_units.unit_scripts),
        ["systemd/outboxd.service", "systemd/outboxd@.service"].map(str::to_owned).into(),
        "cargo-deb installs outboxd.service and outboxd@.service, and no other unit"
    );
}

#[test]
fn the_units_find_program_configuration_and_user() {
    let deb = deb();
    let at = |wanted: &str| {
        deb.assets.iter().any(|(source, destination, mode)| {
            let name = source.rsplit('/').next().unwrap();
            let path =
                if destination.ends_with('/') { format!("{destination}{name}") } else { destination.clone() };
            format!("/{path}") == wanted && mode == if wanted.contains("/bin/") { "755" } else { "644" }
        })
    };
    let unit = fs::read_to_string(root().join("systemd/outboxd.service")).unwrap();
    let program = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    assert!(at(program.split(' ').next().unwrap()), "{program}");
    assert!(at(outboxd::cli::CONFIG_DEFAULT), "{}", outboxd::cli::CONFIG_DEFAULT);
    let environment = unit.lines().find_map(|line| line.strip_prefix("EnvironmentFile=-")).unwrap();
    assert!(at(environment), "{environment}");
    let user = unit.lines().find_map(|line| line.strip_prefix("User=")).unwrap();
    let users = fs::read_to_string(root().join("release/deb/sysusers.d/outboxd.conf")).unwrap();
    assert!(users.lines().any(|line| line.starts_with(&format!("u {user} "))), "{users}");
}

#[test]
fn the_configuration_names_nothing_of_the_user_and_says_what_to_fill_in() {
    let file = root().join("release/deb/outboxd.toml");
    let problems = outboxd::settings::load_with(Some(&file), &BTreeMap::new()).unwrap_err().to_string();
    let lines: Vec<&str> = problems.lines().collect();
    assert_eq!(lines.len(), 2, "{problems}");
    assert!(
        lines[0].contains("rabbitmq.url: is missing") && lines[1].contains("add a section [sources.NAME]"),
        "{problems}"
    );
    // Filled in as its comments show.
    let text = fs::read_to_string(&file).unwrap();
    let key = |line: &str| line.starts_with("#url") || line.starts_with("#[") || line.starts_with("#p");
    let filled: Vec<&str> = text.lines().map(|line| if key(line) { &line[1..] } else { line }).collect();
    let folder = tempfile::tempdir().unwrap();
    for password in ["rabbitmq-password", "postgres-password"] {
        fs::write(folder.path().join(password), "secret").unwrap();
    }
    let filled = filled.join("\n").replace("NAME]", "orders]");
    let filled = filled.replace("/etc/outboxd", folder.path().to_str().unwrap());
    let written = folder.path().join("outboxd.toml");
    fs::write(&written, &filled).unwrap();
    let settings = outboxd::settings::load_with(Some(&written), &BTreeMap::new());
    assert_eq!(settings.unwrap_or_else(|error| panic!("{error}")).sources.len(), 1, "{filled}");
}

#[test]
fn every_script_of_the_release_is_a_shell_script() {
    let scripts: Vec<String> = files("release/deb")
        .into_iter()
        .chain(files("release"))
        .filter(|file| root().join(file).is_file())
        .collect();
    let scripts: Vec<_> = scripts
        .iter()
        .filter(|file| fs::read_to_string(root().join(file)).unwrap().starts_with("#!/bin/sh"))
        .collect();
    assert!(scripts.len() >= 8, "{scripts:?}");
    for script in scripts {
        let dash = Command::new("sh").arg("-n").arg(root().join(script)).output().unwrap();
        assert!(dash.status.success(), "{script}: {}", String::from_utf8_lossy(&dash.stderr));
    }
}
