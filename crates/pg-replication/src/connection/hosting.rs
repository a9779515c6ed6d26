//! Table of managed PostgreSQL services and the commands that replace a superuser's there. Reads nothing itself.
//!
//! Each service is recognised by a role that it creates in every cluster. Recognition only selects the words of
//! cures; nothing is refused or allowed by it.

use crate::quote::identifier;

/// Hosting of a server, as far as cures differ.
#[derive(Debug, PartialEq, Eq)]
pub struct Hosting {
    /// Role that the service creates in every cluster.
    marker: &'static str,
    /// Name of the service.
    name: &'static str,
    /// Statement that lets `{role}` open a replication connection, and who may run it.
    replication: &'static str,
    /// Command that sets `wal_level` to logical.
    wal_level: &'static str,
    /// Command that sets a server parameter, with `{setting}` in place.
    parameter: &'static str,
}

/// A self-hosted server: a superuser is available.
static OWN: Hosting = Hosting {
    marker: "",
    name: "a server of one's own",
    replication: "ALTER ROLE {role} REPLICATION;",
    wal_level: "ALTER SYSTEM SET wal_level = logical; then restart the server",
    parameter: "ALTER SYSTEM SET {setting}; then restart the server",
};

static MANAGED: [Hosting; 6] = [
    Hosting {
        marker: "rds_superuser",
        name: "Amazon RDS and Aurora",
        replication: "GRANT rds_replication TO {role};",
        wal_level: "set rds.logical_replication = 1 in the parameter group of the instance (Aurora: of the cluster), then reboot \
                    the instance that writes",
        parameter: "set {setting} in the parameter group of the instance (Aurora: of the cluster), then reboot the instance that \
                    writes",
    },
    Hosting {
        marker: "cloudsqlsuperuser",
        name: "Google Cloud SQL",
        replication: "ALTER ROLE {role} REPLICATION; as a member of cloudsqlsuperuser",
        wal_level: "set the flag cloudsql.logical_decoding = on of the instance, which restarts it",
        parameter: "set the flag {setting} of the instance, which restarts it",
    },
    Hosting {
        marker: "alloydbsuperuser",
        name: "Google AlloyDB",
        replication: "ALTER ROLE {role} REPLICATION; as a member of alloydbsuperuser",
        wal_level: "set the flag alloydb.logical_decoding = on of the primary instance, which restarts it",
        parameter: "set the flag {setting} of the primary instance, which restarts it",
    },
    Hosting {
        marker: "azure_pg_admin",
        name: "Azure Database for PostgreSQL",
        replication: "ALTER ROLE {role} REPLICATION; as the server's administrator",
        wal_level: "set the server parameter wal_level = logical in the portal or by `az postgres flexible-server parameter set`, \
                    then restart the server",
        parameter: "set the server parameter {setting} in the portal or by `az postgres flexible-server parameter set`, then restart \
                    the server",
    },
    Hosting {
        marker: "neon_superuser",
        name: "Neon",
        replication: "ALTER ROLE {role} REPLICATION; as a role that Neon's console, CLI or API has made, all of which have REPLICATION \
                      themselves",
        wal_level: "enable logical replication in the settings of the Neon project, which restarts its computes",
        parameter: "ask Neon's support for {setting}",
    },
    Hosting {
        marker: "supabase_admin",
        name: "Supabase",
        replication: "ALTER ROLE {role} REPLICATION; as role postgres",
        wal_level: "set wal_level = logical, as Supabase has it by default, then restart the database",
        parameter: "run `supabase --experimental postgres-config update --config '{setting}'`, which restarts the database",
    },
];

impl Hosting {
    /// Returns the hosting of a server that has these of the [markers](Self::markers).
    pub fn of(markers: &[String]) -> &'static Self {
        MANAGED.iter().find(|hosting| markers.iter().any(|role| role == hosting.marker)).unwrap_or(&OWN)
    }

    /// Returns the hosting of a server that belongs to no known service.
    pub fn own() -> &'static Self {
        &OWN
    }

    /// Returns the roles that identify the services.
    pub fn markers() -> impl Iterator<Item = &'static str> {
        MANAGED.iter().map(|hosting| hosting.marker)
    }

    /// Returns the statement that lets `role` open a replication connection, and who may run it.
    pub fn grant_replication(&self, role: &str) -> String {
        self.replication.replace("{role}", &identifier(role))
    }

    /// Returns the command that sets `wal_level` to logical.
    pub fn set_wal_level(&self) -> &'static str {
        self.wal_level
    }

    /// Returns the command for a setting that needs a restart, such as `max_wal_senders = 12`.
    pub fn set_parameter(&self, setting: &str) -> String {
        self.parameter.replace("{setting}", setting)
    }

    /// Returns one line for each managed service: what replaces `wal_level` and REPLICATION there.
    pub fn notes(role: &str) -> impl Iterator<Item = String> {
        MANAGED.iter().map(move |hosting| {
            format!("{}: {}; {}", hosting.name, hosting.wal_level, hosting.grant_replication(role))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_is_recognised_by_its_role_and_has_cures_of_its_own() {
        for (marker, replication, wal_level, parameter) in [
            (
                "rds_superuser",
                "GRANT rds_replication TO \"me\";",
                "rds.logical_replication = 1",
                "parameter group",
            ),
            (
                "cloudsqlsuperuser",
                "as a member of",
                "cloudsql.logical_decoding",
                "the flag max_wal_senders = 5",
            ),
            (
                "alloydbsuperuser",
                "as a member of",
                "alloydb.logical_decoding",
                "the flag max_wal_senders = 5",
            ),
            (
                "azure_pg_admin",
                "administrator",
                "server parameter wal_level",
                "parameter max_wal_senders = 5",
            ),
            ("neon_superuser", "Neon's console", "Neon project", "support"),
            ("supabase_admin", "as role postgres", "by default", "postgres-config"),
            (
                "postgres",
                "ALTER ROLE \"me\" REPLICATION;",
                "ALTER SYSTEM SET wal_level",
                "ALTER SYSTEM SET max_wal_senders = 5;",
            ),
        ] {
            let hosting = Hosting::of(&[marker.to_owned()]);
            assert_eq!(hosting.marker == marker, marker != "postgres");
            assert!(hosting.grant_replication("me").contains(replication), "{hosting:?}");
            assert!(hosting.set_wal_level().contains(wal_level), "{hosting:?}");
            assert!(hosting.set_parameter("max_wal_senders = 5").contains(parameter), "{hosting:?}");
        }
        assert_eq!(Hosting::of(&[]), Hosting::own());
        assert!(Hosting::notes("me").all(|note| !note.contains('{')));
    }
}
