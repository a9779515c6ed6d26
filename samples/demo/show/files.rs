//! What a demo leaves behind: configuration and logs, in `target/<name of the demo>`.

use super::Outcome;
use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// The programs that the demo starts lie beside its own.
pub(crate) fn executable(name: &str) -> PathBuf {
    ancestor(1).join(name)
}

/// A file that is there after the end.
pub(crate) fn kept(name: &str) -> PathBuf {
    kept_folder().join(name)
}

/// Where those are.
pub(crate) fn kept_folder() -> PathBuf {
    let name = env::current_exe().unwrap_or_default();
    ancestor(2).join(name.file_name().unwrap_or("demo".as_ref()))
}

/// A file that goes away with the folder of what writes it stays, and what is written to it later.
pub(crate) fn keep(file: &Path, name: &str) -> Outcome<()> {
    fs::create_dir_all(kept_folder())?;
    // Of the demo before this one.
    match fs::remove_file(kept(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    fs::OpenOptions::new().create(true).append(true).open(file)?;
    Ok(fs::hard_link(file, kept(name))?)
}

/// A path as it can be typed here.
pub(crate) fn short(path: &Path) -> String {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

/// Cargo puts a program into `target/<profile>`.
fn ancestor(number: usize) -> PathBuf {
    let here = env::current_exe().unwrap_or_default();
    here.ancestors().nth(number).unwrap_or(Path::new("")).to_owned()
}
