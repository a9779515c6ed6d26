//! Prints the CycloneDX document of a program. `release/build.sh` passes its arguments.

use std::{error::Error, fs, process::ExitCode};

use release_sbom::{Tree, built, document};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [program, tree, build, lock] = &*arguments else {
        eprintln!("usage: release-sbom PROGRAM TREE BUILD LOCK");
        eprintln!("TREE: output of cargo tree. BUILD: messages of cargo build. LOCK: Cargo.lock.");
        return ExitCode::from(2);
    };
    match print(program, [tree, build, lock]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("release-sbom: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(program: &str, files: [&String; 3]) -> Result<(), Box<dyn Error>> {
    let [tree, build, lock] = files.map(fs::read_to_string);
    let tree = Tree::parse(&tree?)?;
    tree.compare(&built(&build?)?)?;
    println!("{:#}", document(program, &tree, &lock?)?);
    Ok(())
}
