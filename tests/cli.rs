//! The executable: its output and exit statuses.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::Read,
    process::{Command, Output, Stdio},
};

fn outboxd(arguments: &[&str]) -> Command {
    let mut command = Command::new(testkit::programs::executable("outboxd"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

/// Exit status, stdout, stderr.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = outboxd(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn help_lists_every_command_and_the_exit_statuses() {
    let (status, stdout, stderr) = run(&["--help"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    for command in
        ["run", "check", "setup", "teardown", "recover", "replay", "parked", "status", "health", "schema"]
    {
        assert!(stdout.contains(&format!("\n  {command} ")), "{command} is missing in\n{stdout}");
    }
    for line in ["   1  failed at run time", "  78  bad configuration", "$OUTBOXD_CONFIG", "OUTBOXD_LOG"] {
        assert!(stdout.contains(line), "{line} is missing in\n{stdout}");
    }
}

#[test]
fn every_command_explains_itself() {
    for command in
        ["run", "check", "setup", "teardown", "recover", "replay", "parked", "status", "health", "schema"]
    {
        let (status, stdout, _) = run(&[command, "--help"]);
        assert_eq!(status, 0, "{command}");
        let explanation = stdout.split("Usage:").next().unwrap();
        assert!(explanation.trim().lines().count() > 2, "{command} says only\n{explanation}");
        assert!(stdout.contains("--config <FILE>"), "global options are shown:\n{stdout}");
    }
}

#[test]
fn variables_alone_are_enough_when_nobody_names_a_file() {
    let check = |arguments: &[&str]| {
        let mut command = outboxd(arguments);
        command.env("OUTBOXD__RABBITMQ__URL", "amqp://mq");
        command.env("OUTBOXD__SOURCES__ORDERS__POSTGRES__URL", "postgresql://outboxd@db/orders");
        command.env("OUTBOXD__SUBSCRIPTIONS__0__QUEUE", "orders");
        command.env("OUTBOXD__SUBSCRIPTIONS__0__EXCHANGE", "Order.events");
        command
    };
    let output = check(&["check", "--offline"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 subscriptions"), "{output:?}");
    let named = check(&["--config", "/no/such/file", "check", "--offline"]).output().unwrap();
    assert_eq!(named.status.code(), Some(78), "a file that is named must be there: {named:?}");
}

#[test]
fn version_is_that_of_the_package() {
    let (status, stdout, _) = run(&["--version"]);
    assert_eq!((status, stdout), (0, concat!("outboxd ", env!("CARGO_PKG_VERSION"), "\n").to_owned()));
}

#[test]
fn a_bad_command_line_exits_with_2_and_says_why_on_stderr() {
    for (arguments, why) in [
        (&[][..], "Usage: outboxd"),
        (&["relay"], "relay"),
        (&["run", "--quick"], "--quick"),
        (&["teardown"], "--source"),
        (&["--log-format", "xml", "run"], "pretty"),
        (&["schema", "--preset", "eventuate-tram"], "[possible values: standard]"),
    ] {
        let (status, stdout, stderr) = run(arguments);
        assert_eq!((status, stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(stderr.contains(why), "{arguments:?}: {stderr}");
    }
}

#[test]
fn schema_prints_both_tables_and_needs_no_configuration() {
    let (status, stdout, stderr) = run(&["--config", "/nonexistent", "schema"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_eq!(run(&["schema", "--preset", "standard"]).1, stdout);
    let statements: Vec<_> = stdout.lines().filter(|line| line.starts_with("CREATE ")).collect();
    let age = "CREATE INDEX inbox_age ON inbox (consumer, received_at);";
    assert_eq!(statements, ["CREATE TABLE outbox (", "CREATE TABLE inbox (", age]);
    for column in [
        "id",
        "aggregatetype",
        "aggregateid",
        "type",
        "payload",
        "headers",
        "seq",
        "created_at",
        "message_id",
    ] {
        assert!(stdout.contains(&format!("\n  {column} ")), "{column} is missing in\n{stdout}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    for arguments in [&["schema"][..], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut child =
            outboxd(arguments).stdout(writer).stderr(Stdio::piped()).spawn().expect("the executable starts");
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn bad_log_levels_are_bad_configuration() {
    let output = outboxd(&["schema"]).env("OUTBOXD_LOG", "info,outboxd=loud").output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("outboxd: OUTBOXD_LOG='info,outboxd=loud' is not"), "{stderr}");
}

#[test]
fn a_missing_configuration_file_is_bad_configuration() {
    for command in [&["run"][..], &["check"], &["setup"], &["status"], &["teardown", "--source", "orders"]] {
        let arguments = [&["--config", "/nonexistent/outboxd.toml"], command].concat();
        let (status, stdout, stderr) = run(&arguments);
        assert_eq!((status, stdout.as_str()), (78, ""), "{command:?}: {stderr}");
        assert!(stderr.contains("/nonexistent/outboxd.toml"), "{command:?}: {stderr}");
    }
}

/// Bad configuration of every kind: exit status 78, no stdout, and one line for each problem, with file or variable, key, problem
/// and cure.
#[test]
fn bad_configuration_exits_with_78_and_tells_every_problem_at_once() {
    const GOOD: &str = "[rabbitmq]\nurl = \"amqp://h\"\n[sources.a]\npostgres.url = \"postgresql://u@h/d\"\n";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("outboxd.toml");
    let file = file.to_str().unwrap();
    for (text, variables, expected) in [
        // An empty file, and invalid TOML.
        (
            String::new(),
            &[][..],
            &["rabbitmq.url: is missing; set it to", "sources: there is no source; add a section"][..],
        ),
        ("\n[rabbitmq\n".into(), &[], &["TOML parse error at line 2"]),
        ("\u{0}".into(), &[], &["TOML parse error at line 1"]),
        // Unknown keys, and values of the wrong type, on all levels.
        (
            format!(
                "drain_timeout = 3\n[amin]\nlisten = 1\n{GOOD}outbox.tabel = \"x\"\n\
                 delivery = {{ in_flight_max = \"many\", on_invalid = \"ignore\" }}\nmessage = 7\n"
            ),
            &[],
            &[
                "drain_timeout: unknown key; did you mean drain_timeout_s?",
                "amin: unknown key; did you mean admin?",
                "sources.a.outbox.tabel: unknown key; did you mean table?",
                "sources.a.delivery.in_flight_max: must be a whole number, is text; ",
                "sources.a.delivery.on_invalid: \"ignore\" is unknown; set \"halt\"",
                "sources.a.message: must be a table, is a whole number; ",
            ],
        ),
        // Values out of range, contradicting ones, unavailable ones.
        (
            GOOD.replace("url = \"amqp", "heartbeat_s = 0\nurls = [\"amqp://h\"]\nurl = \"amqp")
                + "backlog = \"maybe\"\ncleanup.retention_s = 5\noutbox.preset = \"debezium\"\n\
                   message.exchange = \"{nothing}\"\ndelivery.backoff_min_ms = 20000\n",
            &[],
            &[
                "rabbitmq.heartbeat_s: must be between 1 and 3600, is 0; ",
                "rabbitmq.urls: contradicts url; give one of the two",
                "sources.a.backlog: \"maybe\" is unknown; set \"publish\" or \"skip\"",
                "sources.a.cleanup.retention_s: has no effect: cleanup.mode is \"none\"; ",
                "sources.a.outbox.preset: \"debezium\" is not available in this version; set \"standard\"",
                "sources.a.message.exchange: unknown placeholder {nothing} at character 1; ",
                "sources.a.delivery.backoff_max_ms: is less than backoff_min_ms; ",
            ],
        ),
        // Connection strings and secrets, which are never shown; and two sources that share a slot.
        (
            "[rabbitmq]\nurl = \"http://u:hunter2@h\"\npassword_file = \"/no/such/file\"\n\
             [sources.a]\npostgres.url = \"postgresql://u:hunter2@h:x/d\"\n\
             [sources.b]\npostgres = { url = \"postgresql://u:hunter2@h/d\", slot = \"s\" }\n\
             [sources.c]\npostgres = { url = \"postgresql://u:hunter2@h/d\", slot = \"s\" }\n"
                .into(),
            &[],
            &[
                "rabbitmq.url: does not begin with amqp:// or amqps://; write ",
                "rabbitmq.password_file: /no/such/file cannot be read: No such file",
                "sources.a.postgres.url: ",
                "sources.c.postgres.slot: another source on this server already uses the slot \"s\"; set a different slot",
            ],
        ),
        // Environment variables, which are named in place of the file.
        (
            GOOD.into(),
            &[
                ("OUTBOXD__DRAIN_TIMEOUT_S", "soon"),
                ("OUTBOXD__SOURCES__A__DELIVERY__ORDERING", "none"),
                ("OUTBOXD__SOURCES__A__POSTGRES__SLOTT", "x"),
            ][..],
            &[
                "OUTBOXD__DRAIN_TIMEOUT_S: drain_timeout_s: is not a whole number; set for instance 30",
                "OUTBOXD__SOURCES__A__DELIVERY__ORDERING: sources.a.delivery.ordering: \"none\" is unknown; set",
                "OUTBOXD__SOURCES__A__POSTGRES__SLOTT: sources.a.postgres.slott: unknown key; did you mean slot?",
            ],
        ),
    ] {
        std::fs::write(file, &text).unwrap();
        for command in ["run", "check", "setup", "status"] {
            let variables = variables.iter().copied();
            let output = outboxd(&["--config", file, command]).envs(variables).output().unwrap();
            let [stdout, stderr] =
                [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
            assert_eq!((output.status.code(), stdout.as_str()), (Some(78), ""), "{command}: {stderr}");
            let lines: Vec<&str> = stderr.trim_end().lines().collect();
            assert_eq!(lines.len(), expected.len(), "{command} on\n{text}\nsays\n{stderr}");
            for what in expected {
                let place = if what.starts_with("OUTBOXD__") { String::new() } else { format!("{file}: ") };
                let line = lines.iter().find(|line| line.contains(&format!("{place}{what}")));
                let line = line.unwrap_or_else(|| panic!("{command}: no line has {place}{what}\n{stderr}"));
                assert!(line.contains("; "), "no cure in {line}");
            }
            assert!(!stderr.contains("hunter2"), "{stderr}");
        }
    }
}
