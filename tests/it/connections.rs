//! libpq's connection strings and options against a real server: supported ones work, others are refused with the cure.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use outboxd::postgres::{SourceDatabase, TableName};
use pg_replication::{ConnectError, Endpoint};

use crate::stage::{Stage, say};
use testkit::{Authority, Daemon, Postgres, PostgresOptions, shared_rabbitmq};

const SECRET: &str = "s3cret";

/// Opens both kinds of connections. The second is tried even after a failure of the first.
async fn connect(url: &str) -> Result<String, String> {
    let chain = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text += &format!(": {error}");
            source = error.source();
        }
        text
    };
    let endpoint = Endpoint::parse(url).map_err(|error| error.to_string())?;
    let database = SourceDatabase {
        endpoint: endpoint.clone(),
        slot: "s".into(),
        publication: "p".into(),
        create: true,
        failover: false,
        table: TableName { schema: "public".into(), table: "outbox".into() },
        schema: "public".into(),
        rows: Default::default(),
        cleanup: None,
        parks: false,
        wal_sender_timeout: Duration::from_secs(30),
    };
    let replication = database.connect_replication("test").await;
    let sql: Result<_, ConnectError> = endpoint.connect_sql("test").await;
    match (sql, replication) {
        (Ok(client), Ok(mut connection)) => {
            let ssl = "SELECT coalesce(version, 'none') FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            let by_replication = connection.query(ssl).await.unwrap().remove(0).remove(0).unwrap();
            let by_sql: String = client.query_one(ssl, &[]).await.unwrap().get(0);
            assert_eq!(by_sql, by_replication, "{url}");
            Ok(by_sql)
        }
        (Err(sql), Err(replication)) => Err(format!("{} | {}", chain(&sql), chain(&replication))),
        (sql, replication) => panic!("{url}: {:?}, {:?}", sql.err(), replication.err()),
    }
}

#[tokio::test]
async fn encryption_and_login_are_as_the_options_say() {
    let authority = Authority::new("authority of the server");
    let hba = |kind: &str, user: &str, method: &str| format!("{kind} all {user} 127.0.0.1/32 {method}");
    let postgres = Postgres::start(PostgresOptions {
        certificate: Some(authority.issue("localhost", &["localhost"])),
        hba: vec![
            hba("hostssl", "only_tls", "trust"),
            hba("hostnossl", "only_tls", "reject"),
            hba("hostnossl", "no_tls", "trust"),
            hba("hostssl", "no_tls", "reject"),
            hba("host", "scram", "scram-sha-256"),
        ],
        ..Default::default()
    })
    .await;
    let client = postgres.client("postgres").await;
    client
        .batch_execute(&format!(
            "CREATE ROLE only_tls SUPERUSER LOGIN; CREATE ROLE no_tls SUPERUSER LOGIN;
             CREATE ROLE scram SUPERUSER LOGIN PASSWORD '{SECRET}'"
        ))
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, mode: u32, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let port = postgres.port();
    let passfile = file("pgpass", 0o600, &format!("127.0.0.1:{port}:*:scram:{SECRET}\n"));
    let open_file = file("open", 0o644, &format!("*:*:*:*:{SECRET}\n"));
    let services = format!(
        "[here]\nhost=localhost\nhostaddr=127.0.0.1\nport={port}\ndbname=postgres\nuser=scram\npassword={SECRET}\n"
    );
    let services = file("services", 0o600, &services);
    let at = |user: &str, options: &str| format!("postgresql://{user}@127.0.0.1:{port}/postgres?{options}");
    for (url, expected) in [
        (at("no_tls", "sslmode=allow"), "none"),
        (at("only_tls", "sslmode=allow"), "TLSv1.3"),
        (at("no_tls", "sslmode=prefer"), "none"),
        (at("only_tls", ""), "TLSv1.3"),
        (at("only_tls", "sslmode=require&ssl_max_protocol_version=TLSv1.2&sslsni=0"), "TLSv1.2"),
        (at("scram", &format!("sslmode=disable&passfile={passfile}")), "none"),
        (at(&format!("scram:{SECRET}"), "sslmode=require&require_auth=scram-sha-256"), "TLSv1.3"),
        (at("no_tls", "sslmode=disable&require_auth=!password,!md5&target_session_attrs=primary"), "none"),
        (at("only_tls", "gssencmode=prefer&client_encoding=UTF8&load_balance_hosts=random"), "TLSv1.3"),
        (format!("service=here servicefile='{services}' sslmode=disable"), "none"),
        (format!("postgresql://?service=here&servicefile={services}"), "TLSv1.3"),
    ] {
        assert_eq!(connect(&url).await.as_deref(), Ok(expected), "{url}");
    }
    for (url, expected) in [
        (at("no_tls", "sslmode=require"), vec!["hostnossl line, set sslmode=disable"]),
        (at("only_tls", "sslmode=disable"), vec!["hostssl line, set sslmode=verify-full"]),
        (at("scram", &format!("sslmode=disable&passfile={open_file}")), vec!["mode 0644", "chmod 0600"]),
        (at("scram", "passfile=/no/such/pgpass"), vec!["the password file /no/such/pgpass cannot be read"]),
        (
            at("no_tls", "sslmode=disable&require_auth=scram-sha-256"),
            vec!["asks for none, which require_auth"],
        ),
        (at("no_tls", "gssencmode=require"), vec!["gssencmode must be disable or prefer"]),
        (at("no_tls", "target_session_attrs=prefer-standby"), vec!["any, read-write or primary"]),
        (at("no_tls", "sslcrl=/crl"), vec!["sslcrl is not supported"]),
        (format!("service=nowhere servicefile='{services}'"), vec!["service nowhere cannot be used"]),
    ] {
        let error = connect(&url).await.expect_err(&url);
        assert!(expected.iter().all(|part| error.contains(part)), "{url}: {error}");
        assert!(!error.contains(SECRET), "{error}");
    }

    // `check` and the variables of libpq.
    let mut stage = Stage::on("libpq", &postgres, shared_rabbitmq().await).await;
    stage.postgres_url = stage.postgres_url.replace("postgres@", "scram@");
    let mut daemon = Daemon::prepare(&stage.config());
    daemon.environment = vec![("PGPASSFILE".to_owned(), open_file)];
    let said = say(&daemon, &["check"]).await;
    assert!(said.status == 1 && said.stdout.contains("chmod 0600"), "{}", said.stdout);
    daemon.environment = vec![("PGPASSFILE".to_owned(), passfile)];
    let said = say(&daemon, &["check"]).await;
    assert!(said.stdout.contains("as role \"scram\""), "{}", said.stdout);
    assert!(!said.stdout.contains(SECRET));
}
