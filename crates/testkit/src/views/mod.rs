//! Private nodes of the stores that a view may be in: FerretDB, which speaks MongoDB's protocol, and OpenSearch.
//!
//! `make test-views` builds them in `target/views`.

mod ferretdb;
mod opensearch;

pub use ferretdb::{FerretDb, shared_ferretdb};
pub use opensearch::{OpenSearch, shared_opensearch};

use super::run;
use std::path::PathBuf;

/// Returns a file of `target/views`.
fn built(name: &str) -> PathBuf {
    let file = run::target_directory().join("views").join(name);
    assert!(file.exists(), "{} is not there; `make test-views` builds it", file.display());
    file
}
