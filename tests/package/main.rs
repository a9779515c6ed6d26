//! The Debian package and the archive: what they hold, and what installation, upgrade and removal do to a machine and to the rows.
//!
//! `contents` needs nothing. The others need root and the built package: `make test-deb` and `make test-dist`.

#![allow(clippy::unwrap_used)]

mod archive;
mod contents;
mod life;
mod machine;
mod states;
