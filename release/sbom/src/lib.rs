//! The list of the crates of a program as a CycloneDX document, from Cargo's tree of exactly that program.
//!
//! cargo-cyclonedx reads `cargo metadata`, which switches on what any package of the workspace asks for: its list has crates that the
//! program does not hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde_json::{Value, json};

/// A crate with its version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl fmt::Display for Crate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

#[derive(Clone, Debug, Default)]
struct Facts {
    license: String,
    repository: String,
    /// Of this workspace, not of a registry.
    is_ours: bool,
    needs: BTreeSet<Crate>,
}

/// The crates of a program, with the root first.
#[derive(Debug)]
pub struct Tree {
    root: Crate,
    crates: BTreeMap<Crate, Facts>,
}

/// A list that cannot be made, or is not true.
#[derive(Debug)]
pub struct SbomError(String);

impl fmt::Display for SbomError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SbomError {}

impl Tree {
    /// Reads what `cargo tree --edges normal,build --prefix depth --format '|{p}|{l}|{r}'` prints.
    ///
    /// # Errors
    ///
    /// Names a line that is none of `cargo tree`.
    pub fn parse(text: &str) -> Result<Self, SbomError> {
        let mut crates: BTreeMap<Crate, Facts> = BTreeMap::new();
        let mut path: Vec<Crate> = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let not = || SbomError(format!("not a line of cargo tree: {line}"));
            let mut parts = line.trim_end_matches(" (*)").split('|');
            let depth: usize = parts.next().and_then(|depth| depth.parse().ok()).ok_or_else(not)?;
            let (package, license, repository) =
                (parts.next().ok_or_else(not)?, parts.next().ok_or_else(not)?, parts.next().ok_or_else(not)?);
            let mut words = package.split(' ');
            let name = words.next().ok_or_else(not)?.to_owned();
            let version =
                words.next().and_then(|version| version.strip_prefix('v')).ok_or_else(not)?.to_owned();
            let is_ours = words.any(|word| word.starts_with("(/"));
            let one = Crate { name, version };
            if depth > path.len() {
                return Err(not());
            }
            path.truncate(depth);
            if let Some(facts) = path.last().and_then(|above| crates.get_mut(above)) {
                facts.needs.insert(one.clone());
            }
            let facts = crates.entry(one.clone()).or_default();
            facts.license = license.replace('/', " OR ");
            facts.repository = repository.to_owned();
            facts.is_ours = is_ours;
            path.push(one);
        }
        let root =
            path.into_iter().next().ok_or_else(|| SbomError("cargo tree printed nothing".to_owned()))?;
        Ok(Self { root, crates })
    }

    /// The crates.
    pub fn crates(&self) -> BTreeSet<Crate> {
        self.crates.keys().cloned().collect()
    }

    /// Compares the tree with what Cargo has built.
    ///
    /// # Errors
    ///
    /// Names each crate that only one of them has.
    pub fn compare(&self, built: &BTreeSet<Crate>) -> Result<(), SbomError> {
        let listed = self.crates();
        let differing: Vec<_> = listed
            .difference(built)
            .map(|one| format!("{one} is not built"))
            .chain(built.difference(&listed).map(|one| format!("{one} is built, and not in the tree")))
            .collect();
        if differing.is_empty() { Ok(()) } else { Err(SbomError(differing.join("\n"))) }
    }
}

/// The crates that Cargo's messages (`cargo build --message-format json`) name.
///
/// # Errors
///
/// Names a message without a package.
pub fn built(messages: &str) -> Result<BTreeSet<Crate>, SbomError> {
    let mut crates = BTreeSet::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line)
            .map_err(|error| SbomError(format!("not a message of cargo: {error}")))?;
        if message["reason"] != "compiler-artifact" {
            continue;
        }
        let id = message["package_id"].as_str().unwrap_or_default();
        crates.insert(of_id(id).ok_or_else(|| SbomError(format!("not the id of a package: {id}")))?);
    }
    Ok(crates)
}

/// `...#name@version`, or `path/name#version` where the folder has the package's name.
fn of_id(id: &str) -> Option<Crate> {
    let (place, rest) = id.rsplit_once('#')?;
    let (name, version) = match rest.split_once('@') {
        Some(both) => both,
        None => (place.rsplit_once('/')?.1, rest),
    };
    Some(Crate { name: name.to_owned(), version: version.to_owned() })
}

/// The CycloneDX document of `program`, the root of `tree`. `lock` is Cargo.lock.
///
/// # Errors
///
/// Says that the tree is another program's.
pub fn document(program: &str, tree: &Tree, lock: &str) -> Result<Value, SbomError> {
    if tree.root.name != program {
        return Err(SbomError(format!("the tree is that of {}, not of {program}", tree.root.name)));
    }
    let checksums = checksums(lock);
    let component = |(one, facts): (&Crate, &Facts)| {
        let mut component = json!({
            "type": if *one == tree.root { "application" } else { "library" },
            "bom-ref": reference(one),
            "name": one.name,
            "version": one.version,
            "licenses": [{ "expression": facts.license }],
        });
        if !facts.is_ours {
            component["purl"] = json!(reference(one));
        }
        if let Some(checksum) = checksums.get(one) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        if !facts.repository.is_empty() {
            component["externalReferences"] = json!([{ "type": "vcs", "url": facts.repository }]);
        }
        component
    };
    let root = tree.crates.get_key_value(&tree.root).map(component);
    let components: Vec<_> =
        tree.crates.iter().filter(|(one, _)| **one != tree.root).map(component).collect();
    let dependencies: Vec<_> = tree
        .crates
        .iter()
        .map(|(one, facts)| {
            json!({ "ref": reference(one), "dependsOn": facts.needs.iter().map(reference).collect::<Vec<_>>() })
        })
        .collect();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": root },
        "components": components,
        "dependencies": dependencies,
    }))
}

fn reference(one: &Crate) -> String {
    format!("pkg:cargo/{}@{}", one.name, one.version)
}

/// SHA-256 of each crate's archive.
fn checksums(lock: &str) -> BTreeMap<Crate, &str> {
    let mut checksums = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let value = |key: &str| {
            package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"'))
        };
        if let (Some(name), Some(version), Some(checksum)) =
            (value("name"), value("version"), value("checksum"))
        {
            checksums.insert(Crate { name: name.to_owned(), version: version.to_owned() }, checksum);
        }
    }
    checksums
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TREE: &str = "\
0|app v0.2.0 (/src/app)|MIT OR Apache-2.0|
1|one v1.2.3|MIT/Apache-2.0|https://one
2|made v0.1.0 (proc-macro)|MIT|
1|made v0.1.0 (proc-macro) (*)|MIT|
";

    const MESSAGES: &str = r#"{"reason":"compiler-artifact","package_id":"registry+https://r#one@1.2.3"}
{"reason":"build-script-executed","package_id":"registry+https://r#other@1.0.0"}
{"reason":"compiler-artifact","package_id":"registry+https://r#made@0.1.0"}
{"reason":"compiler-artifact","package_id":"path+file:///src/app#0.2.0"}
"#;

    #[test]
    fn a_tree_becomes_a_document() {
        let tree = Tree::parse(TREE).unwrap();
        let lock = "[[package]]\nname = \"one\"\nversion = \"1.2.3\"\nchecksum = \"abc\"\n";
        let document = document("app", &tree, lock).unwrap();
        assert_eq!(document["metadata"]["component"]["name"], "app");
        assert_eq!(document["metadata"]["component"]["type"], "application");
        let names: Vec<_> =
            document["components"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
        assert_eq!(names, ["made", "one"]);
        let one = &document["components"][1];
        assert_eq!(one["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(one["hashes"][0]["content"], "abc");
        assert_eq!(one["purl"], "pkg:cargo/one@1.2.3");
        let needs = &document["dependencies"][0];
        assert_eq!(needs["ref"], "pkg:cargo/app@0.2.0");
        assert_eq!(needs["dependsOn"], json!(["pkg:cargo/made@0.1.0", "pkg:cargo/one@1.2.3"]));
    }

    #[test]
    fn a_crate_that_only_one_side_has_is_named() {
        let tree = Tree::parse(TREE).unwrap();
        tree.compare(&built(MESSAGES).unwrap()).unwrap();
        let fewer = built(MESSAGES.lines().next().unwrap()).unwrap();
        let problem = tree.compare(&fewer).unwrap_err().to_string();
        assert_eq!(problem, "app 0.2.0 is not built\nmade 0.1.0 is not built");
        let more = MESSAGES.replace("app#0.2.0", "more#0.2.0");
        let problem = tree.compare(&built(&more).unwrap()).unwrap_err().to_string();
        assert_eq!(problem, "app 0.2.0 is not built\nmore 0.2.0 is built, and not in the tree");
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        for text in ["", "error: no such package", "3|app v0.2.0|MIT|", "0|app|MIT|"] {
            assert!(Tree::parse(text).is_err(), "{text}");
        }
        assert!(document("other", &Tree::parse(TREE).unwrap(), "").is_err());
    }
}
