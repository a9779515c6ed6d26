//! Raw TOML and environment -> each room's own options. (sketch)
use crate::{
    outbox::Mapping, postgres::SourceDatabase, rabbitmq::publisher::BrokerOptions, relay::RelayOptions,
};
use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

#[derive(Clone, Debug)]
pub struct Settings {
    pub admin_listen: Option<SocketAddr>,
    pub broker: BrokerOptions,
    pub sources: BTreeMap<String, Source>,
    pub drain_timeout: Duration,
}
#[derive(Clone, Debug)]
pub struct Source {
    pub database: SourceDatabase,
    pub mapping: Mapping,
    pub relay: RelayOptions,
}

/// Every problem at once, each with file (or variable), key and cure.
#[derive(Debug)]
pub struct SettingsError {
    pub problems: Vec<String>,
}

pub fn load(file: &Path) -> Result<Settings, SettingsError> {
    todo!()
}
