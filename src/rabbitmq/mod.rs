//! Everything that knows lapin. Knows nothing of PostgreSQL and of LSNs. (sketch)
pub mod publisher;
pub mod topology;
