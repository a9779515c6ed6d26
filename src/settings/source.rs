//! `[sources.NAME]`: one outbox table.

use std::time::Duration;

use super::{Source, names};
use crate::{
    message::{
        ColumnNames, Mapping, OptionalColumn, Placeholder, Property, RESERVED_HEADERS, ROUTING_HEADERS,
        SHORT_STRING_BYTES_MAX, Template,
    },
    postgres::{Cleanup, RowRules, SourceDatabase, TableName},
    relay::{BacklogPolicy, OnInvalid, OnNack, OnUnroutable, Ordering, RelayOptions, SharedWindow},
};
use configuration::{Complaint, Section};
use pg_replication::{Endpoint, Words};

/// Largest value of RabbitMQ's `max_message_size`.
const MESSAGE_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Reads one source. Returns `None` after a reported problem.
pub(super) fn read(
    name: &str,
    mut section: Section<'_>,
    confirm_timeout: Duration,
    window: &SharedWindow,
) -> Option<Source> {
    let valid = names::source(name);
    if let Err((what, cure)) = &valid {
        section.complain(what, cure);
    }
    // Checks the rest of the section under a name that gives a valid slot.
    let name = if valid.is_ok() { name } else { "source" };
    let backlog = section
        .choice("backlog", &[("publish", Some(BacklogPolicy::Publish)), ("skip", Some(BacklogPolicy::Skip))]);
    let (table, columns, rows) = outbox(section.section("outbox"));
    let rows = RowRules { skip_backlog: backlog == Some(BacklogPolicy::Skip), ..rows };
    let created_at = &columns.created_at.clone();
    let mut database = database(name, section.section("postgres"), table, rows);
    let mut delivery = section.section("delivery");
    let message_bytes_max = delivery.count("message_bytes_max", 1..=MESSAGE_BYTES_MAX, 16_777_216);
    let exchanges_max = delivery.count("exchanges_max", 0..=65_535, 256);
    let wal_sender_timeout = database.as_ref().map(|database| database.wal_sender_timeout);
    let relay = relay(delivery, backlog, confirm_timeout, wal_sender_timeout, window);
    let mapping = mapping(name, section.section("message"), columns, message_bytes_max);
    if let (Some(database), Some(relay)) = (&mut database, &relay) {
        database.parks = relay.parks();
    }
    let cleanup = cleanup(section.section("cleanup"), backlog, created_at);
    section.finish();
    valid.ok()?;
    let database = SourceDatabase { cleanup, ..database? };
    Some(Source { database, mapping: mapping?, relay: relay?, exchanges_max })
}

/// Keys and commands that the cures of connection errors name.
const WORDS: Words = Words {
    connection_string: "postgres.url",
    password: "postgres.password or postgres.password_file",
    make_role: "create it with the statements of `outboxd setup --print-sql`",
};

fn database(
    source: &str,
    mut section: Section<'_>,
    table: Option<TableName>,
    rows: RowRules,
) -> Option<SourceDatabase> {
    if !section.has("url") && !section.has("url_file") {
        section.problem(
            "url",
            "is missing",
            "set it, for instance to \"postgresql://outboxd@host:5432/database\"",
        );
    }
    let url_key = if section.has("url") { "url" } else { "url_file" };
    let url = section.rotating_secret("url");
    let password = section.rotating_secret("password");
    let endpoint = url.and_then(|url| {
        let endpoint =
            Endpoint::read(url, password).map(|endpoint| endpoint.with_words(WORDS)).map_err(|error| {
                section.problem(url_key, error.to_string(), "correct the connection string");
            });
        endpoint.ok()
    });
    let default = format!("outboxd_{}", source.replace('-', "_"));
    let slot = section.parsed("slot", Some(&default), names::slot);
    let publication = section.parsed("publication", Some(&default), names::identifier);
    let schema = section.parsed("schema", None, names::identifier);
    let create = section.flag("create", true);
    let failover = section.flag("failover", false);
    let wal_sender_timeout = section.milliseconds("wal_sender_timeout_ms", 1000..=3_600_000, 10_000);
    section.finish();
    let table = table?;
    Some(SourceDatabase {
        endpoint: endpoint?,
        slot: slot?,
        publication: publication?,
        create,
        failover,
        schema: schema.unwrap_or_else(|| table.schema.clone()),
        table,
        rows,
        cleanup: None,
        parks: false,
        wal_sender_timeout,
    })
}

fn outbox(mut section: Section<'_>) -> (Option<TableName>, ColumnNames, RowRules) {
    let table = section.parsed("table", Some("public.outbox"), names::table);
    section.choice(
        "preset",
        &[("standard", Some(())), ("debezium", None), ("eventuate-tram", None), ("logical-message", None)],
    );
    let mut given = section.section("columns");
    let mut columns = ColumnNames::default();
    for (key, name) in [
        ("id", &mut columns.id),
        ("aggregate_type", &mut columns.aggregate_type),
        ("aggregate_id", &mut columns.aggregate_id),
        ("event_type", &mut columns.event_type),
        ("payload", &mut columns.payload),
    ] {
        let default = name.clone();
        *name = given.parsed(key, Some(&default), names::identifier).unwrap_or(default);
    }
    for (key, column) in [
        ("headers", &mut columns.headers),
        ("sequence", &mut columns.sequence),
        ("created_at", &mut columns.created_at),
    ] {
        let is_given = given.has(key);
        let default = column.name().unwrap_or_default().to_owned();
        let name = given.parsed(key, Some(&default), |text| match text {
            "" => Ok(String::new()),
            name => names::identifier(name),
        });
        match name {
            Some(name) if is_given && name.is_empty() => *column = OptionalColumn::Off,
            Some(name) if is_given => *column = OptionalColumn::Required(name),
            _ => {}
        }
    }
    given.finish();
    let rows = RowRules {
        unpublished: section.filled_text("unpublished"),
        created_at_zone: section.parsed("created_at_zone", None, names::time_zone),
        skip_backlog: false,
    };
    section.finish();
    (table, columns, rows)
}

fn mapping(
    source: &str,
    mut section: Section<'_>,
    columns: ColumnNames,
    message_bytes_max: usize,
) -> Option<Mapping> {
    let headers_off = columns.headers == OptionalColumn::Off;
    let id = section.parsed("id", Some("{id}"), |text| short(text, headers_off));
    let exchange =
        section.parsed("exchange", Some("{aggregate_type}.events"), |text| exchange(text, headers_off));
    let routing_key = section.parsed("routing_key", Some("{event_type}"), |text| short(text, headers_off));
    let content_type = section.parsed("content_type", None, |text| match text.len() {
        1..=SHORT_STRING_BYTES_MAX => Ok(text.to_owned()),
        bytes => Err((
            format!("must have 1 to {SHORT_STRING_BYTES_MAX} bytes, has {bytes}"),
            "write a media type such as \"application/json\"".into(),
        )),
    });
    let mut given = section.section("headers");
    let mut headers = Vec::new();
    for name in given.names() {
        if let Some(what) = header_problem(&name) {
            given.problem(&name, what, "choose another name");
        }
        if let Some(value) = given.named(&name, "<header>", |text| template(text, headers_off)) {
            headers.push((name, value));
        }
    }
    given.finish();
    let properties = Property::ALL.into_iter().filter_map(|property| {
        let template =
            section.parsed(property.key(), None, |text| property_template(property, text, headers_off));
        template.map(|template| (property, template))
    });
    let properties = properties.collect();
    let properties_from_headers = section.flag("properties_from_headers", false);
    if properties_from_headers && headers_off {
        section.problem(
            "properties_from_headers",
            "has no effect: outbox.columns.headers is \"\"",
            "set outbox.columns.headers, or leave the key out",
        );
    }
    section.finish();
    Some(Mapping {
        source: source.to_owned(),
        columns,
        id: id?,
        exchange: exchange?,
        routing_key: routing_key?,
        headers,
        properties,
        properties_from_headers,
        content_type,
        message_bytes_max,
    })
}

/// Parses a property's template. A template without placeholders is checked as a value at once.
fn property_template(property: Property, text: &str, headers_off: bool) -> Result<Template, Complaint> {
    let template = short(text, headers_off)?;
    if template.placeholders().next().is_none() {
        property.accepts(text).map_err(|reason| {
            let reason = reason.to_string();
            let what = reason.split_once("; ").map_or(&*reason, |(what, _)| what);
            (what.to_owned(), "correct the value".to_owned())
        })?;
    }
    Ok(template)
}

fn header_problem(name: &str) -> Option<String> {
    if RESERVED_HEADERS.contains(&name) {
        Some("is a header that outboxd sets itself".into())
    } else if ROUTING_HEADERS.contains(&name) {
        Some("has a special meaning in RabbitMQ: a list of further routing keys".into())
    } else if !(1..=SHORT_STRING_BYTES_MAX).contains(&name.len()) {
        Some(format!("must have 1 to {SHORT_STRING_BYTES_MAX} bytes"))
    } else {
        None
    }
}

fn template(text: &str, headers_off: bool) -> Result<Template, Complaint> {
    let template: Template =
        text.parse().map_err(|error| (format!("{error}"), "correct the template".into()))?;
    let wants_headers = template.placeholders().any(|part| matches!(part, Placeholder::Header(_)));
    if wants_headers && headers_off {
        let what = "uses {header:NAME} though outbox.columns.headers is \"\"";
        return Err((what.into(), "set outbox.columns.headers, or remove the placeholder".into()));
    }
    Ok(template)
}

/// Parses the template of an exchange's name.
fn exchange(text: &str, headers_off: bool) -> Result<Template, Complaint> {
    let template = short(text, headers_off)?;
    let altered = template.pieces("").flatten().find_map(names::altered_by_broker);
    altered.map_or(Ok(template), |(what, cure)| Err((what.to_owned(), cure.to_owned())))
}

/// Parses the template of an AMQP short string.
fn short(text: &str, headers_off: bool) -> Result<Template, Complaint> {
    let template = template(text, headers_off)?;
    if template.literal_bytes() > SHORT_STRING_BYTES_MAX {
        let what =
            format!("its text alone is longer than the {SHORT_STRING_BYTES_MAX} bytes that AMQP allows");
        return Err((what, "shorten it".into()));
    }
    Ok(template)
}

fn relay(
    mut section: Section<'_>,
    backlog: Option<BacklogPolicy>,
    confirm_timeout: Duration,
    wal_sender_timeout: Option<Duration>,
    window: &SharedWindow,
) -> Option<RelayOptions> {
    let ordering = section.choice(
        "ordering",
        &[("per-aggregate", Some(Ordering::PerAggregate)), ("pipelined", Some(Ordering::Pipelined))],
    );
    let in_flight_max = section.count("in_flight_max", 1..=1_000_000, 4096);
    let in_flight_bytes_max = section.count("in_flight_bytes_max", 65_536..=(1 << 36), 8 << 20);
    let on_unroutable = section.choice(
        "on_unroutable",
        &[
            ("halt", Some(OnUnroutable::Halt)),
            ("park", Some(OnUnroutable::Park)),
            ("drop", Some(OnUnroutable::Drop)),
        ],
    );
    let on_invalid =
        section.choice("on_invalid", &[("halt", Some(OnInvalid::Halt)), ("park", Some(OnInvalid::Park))]);
    let on_nack = section.choice("on_nack", &[("wait", Some(OnNack::Wait)), ("park", Some(OnNack::Park))]);
    let backoff_min = section.milliseconds("backoff_min_ms", 1..=600_000, 100);
    let backoff_max = section.milliseconds("backoff_max_ms", 1..=3_600_000, 10_000);
    if backoff_max < backoff_min {
        section.problem("backoff_max_ms", "is less than backoff_min_ms", "raise it, or lower backoff_min_ms");
    }
    let status_interval = section.milliseconds("status_interval_ms", 10..=60_000, 100);
    if let Some(timeout) = wal_sender_timeout.filter(|&timeout| status_interval * 2 > timeout) {
        section.problem(
            "status_interval_ms",
            format!("is more than half of postgres.wal_sender_timeout_ms ({})", timeout.as_millis()),
            "lower it: PostgreSQL ends a connection that reports too rarely",
        );
    }
    section.finish();
    let wal_sender_timeout = wal_sender_timeout?;
    Some(RelayOptions {
        ordering: ordering?,
        in_flight_max,
        in_flight_bytes_max,
        window: window.clone(),
        on_unroutable: on_unroutable?,
        on_invalid: on_invalid?,
        on_nack: on_nack?,
        backlog: backlog?,
        confirm_timeout,
        backoff_min,
        backoff_max,
        status_interval,
        // A third of the timeout tolerates a late update; twice the timeout tolerates a late answer.
        keepalive_interval: wal_sender_timeout / 3,
        server_silence_max: wal_sender_timeout * 2,
    })
}

/// Reads `cleanup`. Returns `None` without clean-up, and after a reported problem.
fn cleanup(
    mut section: Section<'_>,
    backlog: Option<BacklogPolicy>,
    created_at: &OptionalColumn,
) -> Option<Cleanup> {
    let delete = section.choice("mode", &[("none", Some(false)), ("delete", Some(true))]);
    let retention = section.seconds("retention_s", 0..=3_155_760_000, 0);
    let retained = !retention.is_zero();
    if delete == Some(false) && retained {
        section.problem(
            "retention_s",
            "has no effect: cleanup.mode is \"none\"",
            "set 0, or leave the key out",
        );
    }
    if delete == Some(true) && retained && *created_at == OptionalColumn::Off {
        section.problem(
            "retention_s",
            "needs the time of each row, but outbox.columns.created_at is \"\"",
            "set outbox.columns.created_at, or set 0",
        );
    }
    if delete == Some(true) && backlog == Some(BacklogPolicy::Skip) {
        section.problem(
            "mode",
            "\"delete\" would remove the rows that backlog = \"skip\" leaves unpublished",
            "remove those rows yourself and set backlog = \"publish\", which has no effect once the slot exists; or set \
             mode = \"none\"",
        );
    }
    section.finish();
    delete?.then_some(Cleanup { retention })
}
