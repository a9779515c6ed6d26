//! The executable from outside: what it prints where, and how it exits.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::Read,
    process::{Command, Output, Stdio},
};

fn outboxd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
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
    for command in ["run", "check", "setup", "teardown", "status", "schema"] {
        assert!(stdout.contains(&format!("\n  {command} ")), "{command} is missing in\n{stdout}");
    }
    for line in ["   1  failed at run time", "  78  bad configuration", "$OUTBOXD_CONFIG", "OUTBOXD_LOG"] {
        assert!(stdout.contains(line), "{line} is missing in\n{stdout}");
    }
    for absent in ["replay", "parked", "recover"] {
        assert!(!stdout.contains(&format!("\n  {absent} ")), "{absent} is not there yet");
    }
}

#[test]
fn every_command_explains_itself() {
    for command in ["run", "check", "setup", "teardown", "status", "schema"] {
        let (status, stdout, _) = run(&[command, "--help"]);
        assert_eq!(status, 0, "{command}");
        let explanation = stdout.split("Usage:").next().unwrap();
        assert!(explanation.trim().lines().count() > 2, "{command} says only\n{explanation}");
        assert!(stdout.contains("--config <FILE>"), "global options are shown:\n{stdout}");
    }
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
    assert_eq!(statements, ["CREATE TABLE outbox (", "CREATE TABLE inbox ("]);
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
