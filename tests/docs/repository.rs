//! The repository's files: its pages, and the sources that they are held to.

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
};

use crate::markdown::Page;

/// Folders that hold what was built or fetched.
const LEFT_OUT: [&str; 3] = ["target", "node_modules", ".git"];

/// The repository as it lies there.
#[derive(Debug)]
pub(crate) struct Repository {
    /// Every file, by its path from the root.
    pub(crate) files: BTreeSet<PathBuf>,
    /// Every page, the generated ones included.
    pub(crate) pages: Vec<Page>,
}

impl Repository {
    pub(crate) fn read() -> Repository {
        let mut files = BTreeSet::new();
        walk(&root(), Path::new(""), &mut files);
        let is_page = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "md");
        let page = |path: &PathBuf| Page::parse(path, &text(path));
        let pages = files.iter().filter(is_page).map(page).collect();
        Repository { files, pages }
    }

    /// The pages of the book.
    pub(crate) fn book(&self) -> impl Iterator<Item = &Page> {
        self.pages.iter().filter(|page| page.path.starts_with("docs"))
    }

    /// Pages whose words are those of this version: all but the history, and the reports of runs.
    pub(crate) fn current(&self) -> impl Iterator<Item = &Page> {
        self.pages.iter().filter(|page| {
            !page.path.ends_with("CHANGELOG.md")
                && !page.path.starts_with("benches")
                && page.path != Path::new("docs/internals/chaos.md")
                && !page.path.starts_with("docs/internals/decisions")
        })
    }

    /// Rust sources below a folder.
    pub(crate) fn sources<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a PathBuf> {
        let is_source = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "rs");
        self.files.iter().filter(move |path| path.starts_with(folder)).filter(is_source)
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Content of a file, by its path from the root.
pub(crate) fn text(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Replaces a file that is generated.
pub(crate) fn write(path: &str, text: &str) {
    fs::write(root().join(path), text).unwrap();
}

fn walk(root: &Path, folder: &Path, files: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let path = folder.join(&name);
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && !LEFT_OUT.iter().any(|left_out| *left_out == name) {
            walk(root, &path, files);
        } else if kind.is_file() {
            files.insert(path);
        }
    }
}

/// A path without `.` and `..`; `None` where it leaves the repository.
pub(crate) fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::CurDir => {}
            Component::ParentDir if normal.pop() => {}
            _ => return None,
        }
    }
    Some(normal)
}
