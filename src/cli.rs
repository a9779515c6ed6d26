//! The command line of `outboxd`: commands, options and their help. Parses; runs nothing.

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

/// Variable that names the configuration file when `--config` is absent.
pub const CONFIG_VARIABLE: &str = "OUTBOXD_CONFIG";
/// The configuration file when neither `--config` nor the variable names one.
pub const CONFIG_DEFAULT: &str = "/etc/outboxd/outboxd.toml";

const EXIT_STATUS: &str = "\
Exit status:
   0  done, or drained after SIGTERM, SIGINT or SIGQUIT
   1  failed at run time
   2  bad command line
  78  bad configuration: correct it before starting again

Environment:
  OUTBOXD_CONFIG          configuration file, when --config is not given
  OUTBOXD__SECTION__KEY   overrides one key, e.g. OUTBOXD__SOURCES__ORDERS__POSTGRES__URL. Without --config and
                          OUTBOXD_CONFIG the file may be missing: such variables alone are enough
  OUTBOXD_LOG             log levels, e.g. info,outboxd::relay=debug [default: info]";

/// Relays committed rows of PostgreSQL outbox tables to RabbitMQ.
///
/// Each committed row of an outbox table becomes one message. outboxd publishes the messages of an aggregate in commit order, with
/// publisher confirms. A position is acknowledged to PostgreSQL only after every message up to it is confirmed.
#[derive(Clone, Debug, PartialEq, Parser)]
#[command(name = "outboxd", version, after_help = EXIT_STATUS)]
pub struct Cli {
    /// Configuration file [default: $OUTBOXD_CONFIG, else /etc/outboxd/outboxd.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Format of the log on stderr
    #[arg(long, global = true, value_name = "FORMAT", default_value = "pretty")]
    pub log_format: LogFormat,

    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Tells whether `--config` or `$OUTBOXD_CONFIG` (passed in as `variable`) names the configuration file.
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

/// The commands of `outboxd`.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub enum Command {
    /// Relay until SIGTERM, SIGINT or SIGQUIT
    ///
    /// Relays every source of the configuration file and serves the admin endpoints. On SIGTERM, SIGINT or SIGQUIT outboxd
    /// stops reading, waits for outstanding confirms, reports the final position to PostgreSQL, and exits with 0. A second such
    /// signal ends outboxd at once. Any other signal is logged and ignored. SIGHUP does not reload the file in this version.
    Run,

    /// Verify the configuration and everything `run` needs
    ///
    /// Validates the file, then connects and checks versions, wal_level, privileges, table and column types, publication,
    /// slot, exchanges and queues. Prints one line for each check, and below a failure the command or statement that corrects
    /// it. Changes nothing. Exits with 1 when a check fails.
    Check(Check),

    /// Create publication, slot, slot record and RabbitMQ topology
    ///
    /// Creates what is missing and changes nothing that exists, so the command can be repeated. Creates nothing when a check
    /// fails. postgres.create = false and rabbitmq.declare = false apply to `run`, not to `setup`. With backlog = "publish"
    /// and rows in the table, `run` creates the slot, after it has published these rows. Neither `run` nor `setup` removes a
    /// binding: a key that was removed from binding_keys stays bound until --unbind removes it.
    Setup(Setup),

    /// Drop one source's slot and publication
    ///
    /// An unused slot makes PostgreSQL keep WAL until the disk is full: drop it when a source is retired. Stop outboxd first.
    /// The outbox table and everything in RabbitMQ stay. The slot's record is cleared, so a later set-up starts again with
    /// the backlog.
    Teardown(Teardown),

    /// Create a new slot in place of a lost one, and publish the rows that may be missing
    ///
    /// For a source that halted because its slot was lost, dropped, or replaced by another one. Publishes rows that are still
    /// in the outbox table, from one consistent snapshot, and creates the slot at that snapshot after every row is confirmed,
    /// so no row is missed in between. Without --since: rows created since the last recorded confirm, less one hour, or all
    /// rows when none is recorded. Some rows may have been published before; the copies carry the same message_id. Refuses
    /// when the slot is healthy or in use. A running, halted outboxd continues with the new slot by itself. An interrupted
    /// `recover` leaves no slot: run it again.
    Recover(Recover),

    /// Publish rows of the outbox table again
    ///
    /// Reads rows from one consistent snapshot, ordered by the sequence column, else by created_at. Each message has the same
    /// message_id as at first, and the header outbox-replayed: true. Does not use the slot; may run beside `run`. Replayed
    /// messages of an aggregate are in order among themselves, but not relative to messages that `run` publishes at the same
    /// time. On SIGTERM, `replay` waits for outstanding confirms, prints how many rows are confirmed, and exits with 1.
    Replay(Replay),

    /// List, requeue or discard parked rows
    ///
    /// With delivery.on_unroutable, delivery.on_invalid or delivery.on_nack = "park", outboxd puts a row that it cannot publish
    /// into the table outboxd_parked of the source's database, and continues with later rows. The row stays there until it is
    /// requeued or discarded.
    #[command(subcommand)]
    Parked(Parked),

    /// Show the state of every source
    ///
    /// Asks the daemon at admin.listen, and prints for each source its state, confirmed position, lag, the WAL that its slot
    /// retains, messages in flight and parked rows. When no daemon answers, prints each slot as its database shows it, and
    /// exits with 1.
    Status(Status),

    /// Tell whether the daemon is alive, for a container's health check
    ///
    /// Asks /healthz at admin.listen, and exits with 0 when the daemon answers within five seconds, else with 1. A server that is
    /// away, a blocked broker and a halted source do not change the answer: a restart helps none of them. Reads only the keys of
    /// admin, and not even the file where OUTBOXD__ADMIN__LISTEN gives the address.
    Health,

    /// Print the DDL of the outbox and inbox tables
    ///
    /// Needs neither a configuration file nor a connection: `outboxd schema | psql orders`.
    Schema(Schema),
}

/// Options of `check`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Check {
    /// Only validate the file; do not connect
    #[arg(long)]
    pub offline: bool,
}

/// Options of `setup`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Setup {
    /// Only print the SQL statements for a DBA, with a least-privilege role
    #[arg(long)]
    pub print_sql: bool,

    /// Only print the rabbitmqctl commands for an administrator
    ///
    /// The commands create the virtual host and the user of rabbitmq.url, and grant only the permissions that the
    /// configuration needs: regular expressions for configure, write and read, and for the routing keys of each known topic
    /// exchange. With rabbitmq.declare = false they grant no permission to declare exchanges and queues.
    #[arg(long, conflicts_with = "print_sql")]
    pub print_rabbitmqctl: bool,

    /// Only remove a binding that the configuration no longer has
    ///
    /// Remove KEY from the subscription's binding_keys first. `rabbitmqctl list_bindings` lists the bindings. For a
    /// subscription with partitions, QUEUE is the queue's name in the configuration.
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

/// Parses `--since`; a duration counts back from this machine's clock.
fn since(text: &str) -> Result<Timestamp, ParseSinceError> {
    Timestamp::parse_since(text, Timestamp::now())
}

/// Options of `recover`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Recover {
    /// The source, by its name in the configuration file
    #[arg(long, value_name = "NAME")]
    pub source: String,

    /// Only rows created since TIME: 90s, 15m, 1h, 2d or 1w ago, a date (0:00 UTC), or a time with a zone, such as
    /// 2026-01-31T08:05:09Z. Needs the column created_at, and outbox.created_at_zone for a column without time zone
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<Timestamp>,
}

/// Options of `replay`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Replay {
    /// The source, by its name in the configuration file
    #[arg(long, value_name = "NAME")]
    pub source: String,

    /// Only rows created since TIME: 90s, 15m, 1h, 2d or 1w ago, a date (0:00 UTC), or a time with a zone, such as
    /// 2026-01-31T08:05:09Z. Needs the column created_at, and outbox.created_at_zone for a column without time zone
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<Timestamp>,

    /// Only rows of this aggregate, e.g. Order/42
    #[arg(long, value_name = "TYPE/ID")]
    pub aggregate: Option<Aggregate>,
}

/// The commands for parked rows.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Parked {
    /// List parked rows in commit order
    ///
    /// Prints position, message id, aggregate, event type, cause, time and reason of each. Payloads are not shown: they are in
    /// the table outboxd_parked, column column_values.
    List(ListParked),

    /// Publish parked rows again, in commit order
    ///
    /// Uses the current configuration, and the same message_id and outbox-position. A row leaves the table after its confirm.
    /// A row that still cannot be published stays parked, and so do later parked rows of its aggregate. A row that later
    /// messages of its aggregate may have overtaken also stays, and the output says why: the outbox table has later rows, no
    /// longer has this row, or has no column that gives the order. --out-of-order publishes such a row, for consumers that
    /// tolerate it. Stop the writers of the aggregate first: a row committed during the requeue may be delivered before the
    /// requeued one. May run beside `run`. Exits with 1 when a row stays parked.
    Requeue(RequeueParked),

    /// Delete parked rows without publishing them
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

    /// The rows to requeue.
    #[command(flatten)]
    pub chosen: Chosen,

    /// Also requeue rows that later messages of their aggregate may have overtaken
    #[arg(long)]
    pub out_of_order: bool,
}

/// Options of `parked discard`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct DiscardParked {
    /// The source, by its name in the configuration file
    #[arg(long, value_name = "NAME")]
    pub source: String,

    /// The rows to discard.
    #[command(flatten)]
    pub chosen: Chosen,
}

/// The parked rows that a command is for.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[group(required = true, multiple = false)]
pub struct Chosen {
    /// Message ids or positions, as `parked list` prints them
    #[arg(value_name = "ID")]
    pub names: Vec<String>,

    /// All parked rows
    #[arg(long)]
    pub all: bool,
}

/// Options of `status`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Status {
    /// Print the daemon's JSON answer unchanged
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

/// Layouts whose DDL `schema` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemaPreset {
    /// The columns of Debezium's outbox table, with three optional ones
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
