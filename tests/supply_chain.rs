//! The rules of `deny.toml`, checked against outboxd's dependencies without the network and without other tools.
//!
//! cargo-deny checks the same file, and more, where it is installed (`make lint`).

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use config::{Config, File, FileFormat};
use serde::Deserialize;

#[derive(Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Crate>,
    skip: Vec<Crate>,
}

#[derive(Deserialize)]
struct Crate {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

fn rules() -> Rules {
    let text = include_str!("../deny.toml");
    let rules = Config::builder().add_source(File::from_str(text, FileFormat::Toml)).build().unwrap();
    rules.try_deserialize().unwrap()
}

/// The released programs.
const PROGRAMS: [&str; 6] =
    ["outboxd", "order-service", "customer-service", "order-history", "order-search", "api-gateway"];

/// Name, version and a `fact` of each crate in the release builds of `programs` for this machine: `{l}` gives the licence, `{f}`
/// the features.
fn tree(programs: &[&str], fact: &str) -> BTreeSet<(String, String, String)> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--edges", "normal,build", "--prefix", "none"])
        .args(["--format", &format!("{{p}}|{fact}")])
        .args(programs.iter().flat_map(|program| ["--package", program]))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    // A blank line separates the programs.
    let crates = text.lines().filter(|line| !line.is_empty()).map(|line| {
        let (package, fact) = line.trim_end_matches(" (*)").split_once('|').unwrap();
        let mut words = package.split(' ');
        let (name, version) = (words.next().unwrap(), words.next().unwrap().trim_start_matches('v'));
        (name.to_owned(), version.to_owned(), fact.to_owned())
    });
    let crates: BTreeSet<_> = crates.collect();
    assert!(crates.len() > 100 && crates.iter().any(|(name, ..)| name == programs[0]), "{crates:?}");
    crates
}

/// Tells whether the allowed licences satisfy an expression (SPDX; an older crate writes `/` for OR).
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let allows = any(&mut words, allowed);
    assert_eq!(words.next(), None, "{expression}");
    allows
}

type Words<'a, 'b> = &'a mut std::iter::Peekable<std::str::SplitWhitespace<'b>>;

fn any(words: Words<'_, '_>, allowed: &BTreeSet<String>) -> bool {
    let mut allows = all(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        allows |= all(words, allowed);
    }
    allows
}

fn all(words: Words<'_, '_>, allowed: &BTreeSet<String>) -> bool {
    let mut allows = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        allows &= one(words, allowed);
    }
    allows
}

fn one(words: Words<'_, '_>, allowed: &BTreeSet<String>) -> bool {
    let word = words.next().unwrap_or_default();
    if word == "(" {
        let allows = any(words, allowed);
        assert_eq!(words.next(), Some(")"));
        return allows;
    }
    match words.next_if_eq(&"WITH") {
        Some(_) => allowed.contains(&format!("{word} WITH {}", words.next().unwrap_or_default())),
        None => allowed.contains(word),
    }
}

#[test]
fn every_licence_is_an_allowed_one() {
    let Licenses { allow } = rules().licenses;
    for (expression, allowed) in [
        ("MIT OR LGPL-2.1-or-later", true),
        ("GPL-3.0", false),
        ("MIT AND GPL-3.0", false),
        ("(GPL-3.0 OR MIT) AND Apache-2.0", true),
        ("GPL-2.0 WITH Classpath-exception-2.0", false),
        ("Unlicense/MIT", true),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression, &allow), allowed, "{expression}");
    }
    let refused: Vec<_> =
        tree(&PROGRAMS, "{l}").into_iter().filter(|(.., license)| !is_allowed(license, &allow)).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

#[test]
fn no_crate_is_there_that_is_banned_or_twice_without_a_reason() {
    let Bans { deny, skip } = rules().bans;
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, version, _) in tree(&PROGRAMS, "{l}") {
        versions.entry(name).or_default().insert(version);
    }
    for Crate { name, reason } in &deny {
        assert!(!versions.contains_key(name), "{name} is banned: {reason}");
    }
    for Crate { name, reason } in &skip {
        let (name, version) = name.split_once('@').unwrap();
        assert!(!reason.is_empty(), "{name}");
        let there = versions.get_mut(name).is_some_and(|there| there.len() > 1 && there.remove(version));
        assert!(there, "{name} {version} is not there, or alone: remove it from bans.skip");
    }
    versions.retain(|_, versions| versions.len() > 1);
    assert!(versions.is_empty(), "twice, and not in bans.skip: {versions:?}");
}

#[test]
fn every_crate_comes_from_a_registry_that_is_allowed() {
    let allowed = rules().sources.allow_registry;
    let sources = include_str!("../Cargo.lock").lines().filter_map(|line| line.strip_prefix("source = "));
    let registries: BTreeSet<_> = sources.map(|source| source.trim_matches('"')).collect();
    assert!(!registries.is_empty());
    for registry in registries {
        let address = registry.strip_prefix("registry+").unwrap_or(registry);
        assert!(allowed.iter().any(|allowed| allowed == address), "{registry}");
    }
}

/// Each program is built alone (`release/build.sh`, the image, the benches, the test kit), so this tree is the daemon's.
#[test]
fn the_daemon_holds_nothing_that_only_the_services_use() {
    let daemon = tree(&["outboxd"], "{f}");
    let services = tree(&PROGRAMS[1..], "{f}");
    let holds = |tree: &BTreeSet<(String, String, String)>, wanted: &str| {
        tree.iter().any(|(name, ..)| name == wanted)
    };
    for name in [
        "chassis",
        "contract",
        "lapin",
        "utoipa",
        "deadpool",
        "rust_decimal",
        "tower-resilience-circuitbreaker",
    ] {
        assert!(holds(&services, name), "{name} is no crate of the services any more");
        assert!(!holds(&daemon, name), "{name} is in the daemon");
    }
    // A crate of the services may enable this feature, which would change the order of the keys in a row's headers.
    let json = daemon.iter().find(|(name, ..)| name == "serde_json").unwrap();
    assert!(!json.2.split(',').any(|feature| feature == "preserve_order"), "{json:?}");
}
