//! The command line: what can be asked of `outboxd`. Parses and explains; does nothing.

use crate::{
    backfill::snapshot::Aggregate,
    message::{ParseSinceError, Timestamp},
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use process::telemetry::LogFormat;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Names the configuration file when `--config` does not.
pub const CONFIG_VARIABLE: &str = "OUTBOXD_CONFIG";
/// The configuration file when nothing names one.
pub const CONFIG_DEFAULT: &str = "/etc/outboxd/outboxd.toml";

const EXIT_STATUS: &str = "\
Exit status:
   0  done, or drained after SIGTERM, SIGINT or SIGQUIT
   1  failed at run time
   2  bad command line
  78  bad configuration; starting again without changing it is of no use

Environment:
  OUTBOXD_CONFIG          configuration file, when --config is not given
  OUTBOXD__SECTION__KEY   overrides one key, e.g. OUTBOXD__SOURCES__ORDERS__POSTGRES__URL; such variables alone are
                          enough when neither --config nor OUTBOXD_CONFIG names a file and the default one is missing
  OUTBOXD_LOG             log levels, e.g. info,outboxd::relay=debug [default: info]";

/// Relays committed rows of PostgreSQL outbox tables to RabbitMQ.
///
/// Each committed row of an outbox table becomes one message, published in the commit order of its aggregate and with publisher
/// confirms. PostgreSQL is told that a position is flushed only after every message up to it is confirmed.
#[derive(Clone, Debug, PartialEq, Parser)]
#[command(name = "outboxd", version, after_help = EXIT_STATUS)]
pub struct Cli {
    /// Configuration file [default: $OUTBOXD_CONFIG, else /etc/outboxd/outboxd.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// How logs on stderr look
    #[arg(long, global = true, value_name = "FORMAT", default_value = "pretty")]
    pub log_format: LogFormat,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Whether `--config` or `$OUTBOXD_CONFIG` (passed in as `variable`) names the configuration file.
    pub fn names_config_file(&self, variable: Option<OsString>) -> bool {
        self.config.is_some() || variable.is_some_and(|value| !value.is_empty())
    }

    /// The configuration file: `--config`, else `$OUTBOXD_CONFIG` (passed in as `variable`) unless it is empty, else the
    /// default.
    pub fn config_file(&self, variable: Option<OsString>) -> PathBuf {
        let variable = variable.filter(|value| !value.is_empty()).map(PathBuf::from);
        self.config.clone().or(variable).unwrap_or_else(|| Path::new(CONFIG_DEFAULT).to_owned())
    }
}

/// What `outboxd` can do.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub enum Command {
    /// Relay until SIGTERM, SIGINT or SIGQUIT
    ///
    /// Relays every source of the configuration file and serves the admin endpoints. On SIGTERM, SIGINT or SIGQUIT it stops
    /// reading, waits for outstanding confirms, reports the final position to PostgreSQL and exits with 0. A second one ends it
    /// at once. Any other signal is logged and ignored; SIGHUP does not reload in this version.
    Run,

    /// Verify the configuration and everything `run` needs
    ///
    /// Validates the file, then connects and looks at versions, wal_level, privileges, table and column types,
    /// publication, slot, exchanges and queues. Prints one line for each check; a failure comes with the command or
    /// statement that mends it. Changes nothing.
    Check(Check),

    /// Create publication, slot, slot record and RabbitMQ topology
    ///
    /// Creates what is missing and leaves alone what is there, so it can be repeated. Creates nothing when a check fails.
    /// postgres.create = false and rabbitmq.declare = false concern `run`, not this. With backlog = "publish" a table
    /// that has rows gets its slot from `run`, which publishes them first. Neither `run` nor `setup` removes a binding: a
    /// key that was taken out of binding_keys stays bound until --unbind removes it.
    Setup(Setup),

    /// Drop one source's slot and publication
    ///
    /// A slot that nobody reads makes PostgreSQL keep WAL until the disk is full, so drop it when a source is retired.
    /// The outbox table and everything in RabbitMQ stay. The record of the slot goes too, so that a later set-up starts
    /// afresh, with the backlog. Stop outboxd first. A source that is not in the configuration is a bad command line.
    Teardown(Teardown),

    /// Make a new slot in place of a lost one, and publish what may be missing
    ///
    /// For a source that halted because its slot is lost, gone, or not the one that was there before. Publishes rows that
    /// are still in the outbox table, from one consistent snapshot, and makes the slot at that snapshot when all are
    /// confirmed, so that nothing falls between. Without --since: the rows created since the last confirm that outboxd
    /// has recorded, less one hour, or all if nothing is recorded. Some rows may have been published before; such copies
    /// carry the same message_id. Refuses when the slot is healthy or in use. A running, halted outboxd goes on with the
    /// new slot by itself. What ends it early leaves no slot: run it again.
    Recover(Recover),

    /// Publish rows again that are still in the outbox table
    ///
    /// From one consistent snapshot, by the sequence column, else by created_at; each message as at first, with the same
    /// message_id, and with the header outbox-replayed: true. Touches no slot, and may run while outboxd runs. The
    /// messages of an aggregate are in order among themselves, but in no order with those that the running outboxd
    /// publishes of the same aggregate meanwhile. On SIGTERM waits for what is on its way, says how far it came, and
    /// exits with 1.
    Replay(Replay),

    /// See to the messages that policy put aside
    ///
    /// With delivery.on_unroutable = "park" or delivery.on_invalid = "park" a row that cannot be published is put into the
    /// table outboxd_parked of its source's database, and what follows it goes on. There it stays until it is requeued or
    /// discarded.
    #[command(subcommand)]
    Parked(Parked),

    /// Show what the running daemon does
    ///
    /// Asks the admin endpoint of the daemon that uses the same configuration file, and prints for every source its
    /// state, position, lag, the WAL that its slot holds back, the messages in flight, and the rows parked. When no daemon
    /// answers, prints what the databases know of the slots, and exits with 1.
    Status(Status),

    /// Print the DDL of the outbox and inbox tables
    ///
    /// Needs neither a configuration file nor a database: `outboxd schema | psql orders`.
    Schema(Schema),
}

/// Options of `check`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Check {
    /// Only validate the file: connect to nothing
    #[arg(long)]
    pub offline: bool,
}

/// Options of `setup`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Setup {
    /// Print the statements for a DBA, and a least-privilege role, and do nothing
    #[arg(long)]
    pub print_sql: bool,

    /// Print the rabbitmqctl commands for an administrator, and do nothing
    ///
    /// They make virtual host and user, and grant the rights that the configuration needs and no more: regular expressions
    /// for configure, write and read, and the routing keys of each topic exchange that is known. With
    /// rabbitmq.declare = false no right to declare is among them. The user is that of rabbitmq.url.
    #[arg(long, conflicts_with = "print_sql")]
    pub print_rabbitmqctl: bool,

    /// Remove a binding that the configuration no longer has, and do nothing else
    ///
    /// The key has to be out of the subscription's binding_keys. `rabbitmqctl list_bindings` lists what is bound. For a
    /// subscription with partitions QUEUE is its name in the configuration.
    #[arg(long, num_args = 3, value_names = ["EXCHANGE", "QUEUE", "KEY"], conflicts_with_all = ["print_sql", "print_rabbitmqctl"])]
    pub unbind: Option<Vec<String>>,
}

/// Options of `teardown`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Teardown {
    /// The source, by its name in the configuration file
    #[arg(long, value_name = "NAME")]
    pub source: String,
}

/// Counted from this machine's clock.
fn since(text: &str) -> Result<Timestamp, ParseSinceError> {
    Timestamp::parse_since(text, Timestamp::now())
}

/// Options of `recover`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Recover {
    /// The source, by its name in the configuration file
    #[arg(long, value_name = "NAME")]
    pub source: String,

    /// Only rows created since then: 90s, 15m, 1h, 2d or 1w ago, a date (its beginning in UTC), or a time with its zone such as
    /// 2026-01-31T08:05:09Z. Needs the column created_at, and outbox.created_at_zone where that has no time zone
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<Timestamp>,
}

/// Options of `replay`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Replay {
    /// The source, by its name in the configuration file
    #[arg(long, value_name = "NAME")]
    pub source: String,

    /// Only rows created since then: 90s, 15m, 1h, 2d or 1w ago, a date (its beginning in UTC), or a time with its zone such as
    /// 2026-01-31T08:05:09Z. Needs the column created_at, and outbox.created_at_zone where that has no time zone
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<Timestamp>,

    /// Only rows of this aggregate, e.g. Order/42
    #[arg(long, value_name = "TYPE/ID")]
    pub aggregate: Option<Aggregate>,
}

/// What can be done about parked messages.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Parked {
    /// List them, in commit order
    ///
    /// With position, message id, aggregate, event type, why and when each was parked. Payloads are not shown: they are in
    /// the table outboxd_parked, column column_values.
    List(ListParked),

    /// Publish them again, in commit order, with the configuration as it is now
    ///
    /// With the same message_id and outbox-position. A row leaves the table after its confirm; one that still cannot be
    /// published stays, and so do the later ones of its aggregate. A row that may have been overtaken by later ones of its
    /// aggregate stays as well, and the line says why: the outbox table has later rows, no longer has this one, or has no
    /// column that tells. --out-of-order publishes it all the same, for consumers that can bear it. Nobody should write
    /// rows of that aggregate meanwhile. May run while outboxd runs. Exits with 1 when anything stays.
    Requeue(RequeueParked),

    /// Remove them for good, unpublished
    Discard(DiscardParked),
}

/// Options of `parked list`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ListParked {
    /// The source, by its name in the configuration file
    #[arg(long, value_name = "NAME")]
    pub source: String,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `parked requeue`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct RequeueParked {
    /// The source, by its name in the configuration file
    #[arg(long, value_name = "NAME")]
    pub source: String,

    /// Which ones.
    #[command(flatten)]
    pub chosen: Chosen,

    /// Also those that later messages of their aggregate may have overtaken
    #[arg(long)]
    pub out_of_order: bool,
}

/// Options of `parked discard`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct DiscardParked {
    /// The source, by its name in the configuration file
    #[arg(long, value_name = "NAME")]
    pub source: String,

    /// Which ones.
    #[command(flatten)]
    pub chosen: Chosen,
}

/// Which parked messages a command is for.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[group(required = true, multiple = false)]
pub struct Chosen {
    /// Message ids or positions, as `parked list` shows them
    #[arg(value_name = "ID")]
    pub names: Vec<String>,

    /// All that are parked
    #[arg(long)]
    pub all: bool,
}

/// Options of `status`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Status {
    /// Print JSON: the daemon's own, as it is
    #[arg(long)]
    pub json: bool,
}

/// Options of `schema`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Schema {
    /// Layout of the outbox table
    #[arg(long, value_name = "NAME", default_value = "standard")]
    pub preset: SchemaPreset,
}

/// The layouts whose DDL `schema` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemaPreset {
    /// The table that Debezium made the standard, with three optional columns
    Standard,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_may_follow_the_command() {
        let cli =
            Cli::try_parse_from(["outboxd", "run", "--log-format", "json", "--config", "x.toml"]).unwrap();
        assert_eq!((cli.log_format, cli.config), (LogFormat::Json, Some(PathBuf::from("x.toml"))));
    }

    #[test]
    fn the_flag_goes_before_the_variable_and_that_before_the_default() {
        let flagged = Cli::try_parse_from(["outboxd", "--config", "flag.toml", "run"]).unwrap();
        let plain = Cli::try_parse_from(["outboxd", "run"]).unwrap();
        let variable = || Some(OsString::from("variable.toml"));
        assert_eq!(flagged.config_file(variable()), Path::new("flag.toml"));
        assert_eq!(plain.config_file(variable()), Path::new("variable.toml"));
        assert_eq!(plain.config_file(Some(OsString::new())), Path::new(CONFIG_DEFAULT));
        assert_eq!(plain.config_file(None), Path::new(CONFIG_DEFAULT));
    }

    #[test]
    fn recover_and_replay_take_a_time_and_an_aggregate_or_say_what_is_wrong_with_them() {
        let parse = |arguments: &[&str]| Cli::try_parse_from([&["outboxd"], arguments].concat());
        let replay =
            ["replay", "--source", "orders", "--since", "2026-01-31T08:05:09Z", "--aggregate", "Order/4/2"];
        let Command::Replay(replay) = parse(&replay).unwrap().command else { panic!("not replay") };
        assert_eq!(replay.since.unwrap().to_string(), "2026-01-31T08:05:09.000Z");
        assert_eq!(replay.aggregate.unwrap().to_string(), "Order/4/2");
        for (arguments, expected) in [
            (["--since", "yesterday"], "not a time: write 90s"),
            (["--since", "2026-01-31 08:05"], "not a time: write 90s"),
            (["--aggregate", "Order"], "TYPE/ID"),
        ] {
            let error = parse(&[&["replay", "--source", "orders"], &arguments[..]].concat()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert!(parse(&["recover", "--source", "orders"]).is_ok());
        assert!(parse(&["recover"]).is_err() && parse(&["replay"]).is_err());
    }

    #[test]
    fn requeue_and_discard_never_guess_which() {
        for command in ["requeue", "discard"] {
            let parse = |more: &[&str]| {
                let arguments = [&["outboxd", "parked", command, "--source", "orders"], more].concat();
                Cli::try_parse_from(arguments)
            };
            assert!(parse(&["--all"]).is_ok() && parse(&["1", "00000000019A2F48-00000000"]).is_ok());
            assert!(parse(&[]).is_err() && parse(&["--all", "1"]).is_err());
        }
    }

    #[test]
    fn teardown_never_guesses_a_source() {
        assert!(Cli::try_parse_from(["outboxd", "teardown"]).is_err());
    }
}
