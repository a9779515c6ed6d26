//! Files that a demo keeps: configuration and logs, in `target/<name of the demo>`.

use super::Outcome;
use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// Returns the path of a program, beside the demo's own.
pub(crate) fn executable(name: &str) -> PathBuf {
    ancestor(1).join(name)
}

/// Returns the path of a kept file.
pub(crate) fn kept(name: &str) -> PathBuf {
    kept_folder().join(name)
}

/// Returns the folder of kept files.
pub(crate) fn kept_folder() -> PathBuf {
    let name = env::current_exe().unwrap_or_default();
    ancestor(2).join(name.file_name().unwrap_or("demo".as_ref()))
}

/// Keeps a file, with later writes to it, when its program's folder is removed.
pub(crate) fn keep(file: &Path, name: &str) -> Outcome<()> {
    fs::create_dir_all(kept_folder())?;
    // Left by the previous demo.
    match fs::remove_file(kept(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    fs::OpenOptions::new().create(true).append(true).open(file)?;
    Ok(fs::hard_link(file, kept(name))?)
}

/// Returns a path relative to the working directory.
pub(crate) fn short(path: &Path) -> String {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

/// Returns a folder above the program, which Cargo puts into `target/<profile>`.
fn ancestor(number: usize) -> PathBuf {
    let here = env::current_exe().unwrap_or_default();
    here.ancestors().nth(number).unwrap_or(Path::new("")).to_owned()
}
