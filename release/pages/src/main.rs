//! Writes man pages and completions into the directory that is its argument.

use std::{fs, path::Path, process::ExitCode};

use release_pages::{command_pages, completions, configuration_page};

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("usage: release-pages DIRECTORY");
        return ExitCode::from(2);
    };
    match write(Path::new(&directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("release-pages: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &Path) -> std::io::Result<()> {
    let [commands, files, completing] = ["man1", "man5", "completions"].map(|name| directory.join(name));
    for directory in [&commands, &files, &completing] {
        fs::create_dir_all(directory)?;
    }
    for page in command_pages::all()? {
        fs::write(commands.join(page.file), page.text)?;
    }
    fs::write(files.join(configuration_page::FILE), configuration_page::page())?;
    for completion in completions::all() {
        fs::write(completing.join(completion.file), completion.text)?;
    }
    Ok(())
}
