//! Servers that send wrong answers, at every step of their protocols: PostgreSQL and RabbitMQ behind a [`Liar`]. The daemon names
//! each problem and retries, in bounded memory, ends at once on SIGTERM, and delivers every row after the servers behave again.

use std::time::Duration;

use crate::stage::{PATIENCE, Stage, alive, until};
use testkit::{
    Daemon,
    liar::{
        ACK, CHANNEL_OPEN_OK, EXCHANGE_DECLARE_OK, Liar, Lie, OPEN_OK, Protocol, SELECT_OK, START, TUNE, Then,
    },
    raw_amqp::{self, method},
    shared_postgres, shared_rabbitmq,
};

/// Kind of the message to replace, the replacement, and the daemon's words for it.
type Said = (&'static [u8], Then, &'static str);

/// A PostgreSQL message with any length field.
fn postgres(tag: u8, length: u32, payload: &[u8]) -> Vec<u8> {
    [&[tag], &length.to_be_bytes()[..], payload].concat()
}

/// An AMQP frame with any size field and end byte.
fn frame(kind: u8, channel: u16, size: u32, payload: &[u8], end: u8) -> Vec<u8> {
    [&[kind], &channel.to_be_bytes()[..], &size.to_be_bytes(), payload, &[end]].concat()
}

/// AMQP's Start, with this value among the server's properties.
fn start(property: Vec<u8>) -> Vec<u8> {
    let properties = raw_amqp::table(&[(b"n", property)]);
    [&[0, 9][..], &properties, &raw_amqp::long(b"PLAIN"), &raw_amqp::long(b"en_US")].concat()
}

/// A content header with this value among the headers.
fn frame_of_headers(value: Vec<u8>) -> Vec<u8> {
    let properties = raw_amqp::properties(raw_amqp::HEADERS, &[&raw_amqp::table(&[(b"n", value)])]);
    raw_amqp::frame(2, 1, &[&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &properties].concat())
}

/// AMQP's close: reply code, short text, class and method. The client must answer `close-ok`.
fn close(code: u16, text: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], &raw_amqp::short(text.as_bytes()), &[0; 4]].concat()
}

/// An ErrorResponse with a message of this size.
fn error_response(bytes: usize) -> Vec<u8> {
    let fields = [b"SFATAL\0CXX000\0M", "x".repeat(bytes).as_bytes(), b"\0\0"].concat();
    postgres(b'E', u32::try_from(fields.len() + 4).unwrap(), &fields)
}

/// Sends each wrong answer until the daemon has met it twice and reported the expected words. Rows are written meanwhile.
async fn tell(stage: &Stage, daemon: &Daemon, liar: &Liar, lies: Vec<Said>) {
    let mut sequence = 0;
    for (in_place_of, then, expected) in lies {
        let shown = format!("{then} in place of {}", in_place_of.escape_ascii());
        liar.tell(Some(Lie { in_place_of, then }));
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            sequence += 1;
            stage.write_row("a", sequence, "OrderCreated").await;
            let source = crate::stage::source(daemon, "orders").await;
            // The source may stream again by now.
            let reason = source["last_error"].as_str().unwrap_or_default().to_owned();
            if liar.told() >= 2 && reason.contains(expected) {
                let (status, text) = daemon.readyz().await;
                assert!(status == 200 || text.len() < 10_000, "{shown}: {} bytes in /readyz", text.len());
                assert!(reason.len() < 5_000, "{shown}: a reason of {} bytes", reason.len());
                println!("{shown}:\n    {}", reason.chars().take(300).collect::<String>());
                break;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "{shown}: met {} times, expected {expected}, found {}",
                liar.told(),
                source.to_string().chars().take(1000).collect::<String>()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Checks that nothing is lost and memory has not grown after the servers behave again. Then one more wrong answer, and SIGTERM.
async fn come_to_senses(stage: &mut Stage, daemon: &mut Daemon, liar: &Liar, last: Lie) {
    liar.tell(None);
    until(daemon, "orders", |shown| shown["state"] == "streaming").await;
    let verdict = stage.verdict().await;
    assert!(verdict.keeps_promises(), "{verdict}");
    let peak = daemon.memory_peak_mb();
    println!("peak memory of the daemon: {peak} MB");
    assert!(peak < 100, "{peak} MB");

    liar.tell(Some(last));
    crate::stage::eventually("the last lie is told", async || liar.told() > 0).await;
    daemon.sigterm(Duration::from_secs(30)).await;
}

#[tokio::test]
async fn a_postgresql_that_lies_at_any_step() {
    let mut stage = Stage::shared("liar").await;
    stage.make_impatient();
    let liar = Liar::before(shared_postgres().await.port(), Protocol::Postgres).await;
    stage.consume().await;
    let config = stage.config_through_ports(liar.port, shared_rabbitmq().await.port());
    let mut daemon =
        alive(&config.replace("\"\npostgres.slot", "?sslmode=disable&connect_timeout=2\"\npostgres.slot"))
            .await;
    until(&daemon, "orders", |shown| shown["state"] == "streaming").await;

    // R: authentication, S: parameter, Z: ready for a command, T and D: result of SQL, W and d: copy stream.
    let lies = vec![
        (&b"R"[..], Then::Say(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()), "is this a PostgreSQL port?"),
        (b"R", Then::Say(postgres(b'R', 0x7FFF_FFFF, b"")), "announces 2147483647 bytes"),
        (b"R", Then::Say(postgres(b'R', 0xFFFF_FFFF, b"")), "announces 4294967295 bytes"),
        (b"R", Then::Say(error_response(16 << 20)), "message 'E' announces 16777237 bytes"),
        // The same step of SASL without end, or notices.
        (b"R", Then::Babble(postgres(b'R', 8, &[0, 0, 0, 11])), "unexpected message from server"),
        (b"R", Then::Babble(postgres(b'N', 11, b"Mhello\0")), "unexpected message from server"),
        (b"R", Then::Stop, "in the middle of a message"),
        (b"R", Then::FallSilent, "no connection within 2 s"),
        (b"S", Then::Stop, "in the middle of a message"),
        (b"Z", Then::Stop, "in the middle of a message"),
        (b"Z", Then::Say(postgres(b'Z', 3, b"")), "header length < 4"),
        (b"T", Then::Stop, "the server closed the connection"),
        (b"D", Then::Stop, "the server closed the connection"),
        (b"D", Then::Say(postgres(b'D', 0x7FFF_FFFF, b"")), "the server closed the connection"),
        (b"D", Then::Say(postgres(b'D', 0xFFFF_FFFF, b"")), "the server closed the connection"),
        (b"D", Then::Say(vec![0xFF; 4096]), "the server closed the connection"),
        (b"D", Then::Say(error_response(8 << 20)), "... (8388608 bytes)"),
        (b"W", Then::Stop, "in the middle of a message"),
        (b"W", Then::Say(error_response(8 << 20)), "... (8388608 bytes)"),
        (b"d", Then::Stop, "the replication stream broke"),
        (b"d", Then::FallSilent, "PostgreSQL has been silent"),
        (b"d", Then::Say(vec![0; 64]), "header length < 4"),
        (b"d", Then::Say(postgres(b'd', 0x7FFF_FFFF, b"")), "announces 2147483647 bytes"),
        (b"d", Then::Say(postgres(b'd', 0x8000_0000, b"")), "header length < 4"),
        (b"d", Then::Say(postgres(b'd', 0x3FFF_FFFF, b"w")), "PostgreSQL has been silent"),
        (b"d", Then::Say(postgres(b'd', 6, b"??")), "neither XLogData nor a keepalive"),
        (
            b"d",
            Then::Say(postgres(b'd', 29, b"w\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0")),
            "expected a message kind at byte 0",
        ),
        (
            b"d",
            Then::Say(postgres(b'd', 31, b"w\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0I?")),
            "expected relation OID at byte 1",
        ),
        (b"d", Then::Say(error_response(8 << 20)), "... (8388608 bytes)"),
        (b"d", Then::Say(postgres(b'Z', 5, b"I")), "message 'Z' while streaming"),
        (b"d", Then::Say(postgres(b'c', 4, b"")), "the server ended the replication stream"),
    ];
    tell(&stage, &daemon, &liar, lies).await;
    // The answer to a query, which the daemon would await for a minute.
    come_to_senses(&mut stage, &mut daemon, &liar, Lie { in_place_of: b"T", then: Then::FallSilent }).await;
}

#[tokio::test]
async fn a_broker_that_lies_at_any_step() {
    let mut stage = Stage::shared("liar").await;
    stage.make_impatient();
    let liar = Liar::before(shared_rabbitmq().await.port(), Protocol::Amqp).await;
    stage.consume().await;
    let config = stage.config_through_ports(shared_postgres().await.port(), liar.port);
    let mut daemon = alive(&config).await;
    until(&daemon, "orders", |shown| shown["state"] == "streaming").await;

    let ack = |tag: u64, multiple: u8| method(1, 60, 80, &[&tag.to_be_bytes()[..], &[multiple]].concat());
    let lies = vec![
        (START, Then::Say(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()), "no frame of type 72"),
        (START, Then::Say(b"AMQP\0\x01\0\0".to_vec()), "another version of AMQP"),
        (START, Then::Say(frame(1, 0, 0x7FFF_FFFF, b"", 0xCE)), "a frame of 2147483655 bytes"),
        (START, Then::Say(frame(1, 0, 4, &[0, 10, 0, 10], 0)), "12 bytes that cannot be read"),
        (
            START,
            Then::Say(method(0, 10, 50, &close(541, "not today"))),
            "refuses the connection: 541 not today",
        ),
        // A table of arrays nested deep enough to fill a frame: a recursive parser overflows its stack.
        (
            START,
            Then::Say(method(0, 10, 10, &start(raw_amqp::arrays(25_000)))),
            "the server properties are nested deeper than 32 levels",
        ),
        (
            START,
            Then::Say(method(0, 10, 10, &start(raw_amqp::tables(2_000)))),
            "the server properties are nested deeper than 32 levels",
        ),
        (START, Then::Say(method(0, 50, 10, b"\0\0")), "no broker sends method 50.10 to a client"),
        (START, Then::Babble(frame(8, 0, 0, b"", 0xCE)), "did not answer within 1500 ms"),
        (START, Then::Stop, "broke off the handshake"),
        (START, Then::FallSilent, "did not answer within 1500 ms"),
        (TUNE, Then::Stop, "broke off the handshake"),
        (TUNE, Then::FallSilent, "did not answer within 1500 ms"),
        (TUNE, Then::Say(method(0, 10, 50, &close(541, "enough"))), "refuses the connection: 541 enough"),
        // Every limit has its largest value, then its smallest.
        (TUNE, Then::Say(method(0, 10, 30, &[0xFF; 8])), "did not answer within 1500 ms"),
        (OPEN_OK, Then::Say(method(0, 99, 99, b"")), "cannot be read: no broker sends method 99.99"),
        (OPEN_OK, Then::Stop, "broke off the handshake"),
        (CHANNEL_OPEN_OK, Then::Stop, "connection aborted"),
        (CHANNEL_OPEN_OK, Then::FallSilent, "not even a heartbeat"),
        (
            CHANNEL_OPEN_OK,
            Then::Say(method(1, 20, 40, &close(406, "no channel"))),
            "closed the channel: 406 no channel",
        ),
        (EXCHANGE_DECLARE_OK, Then::Stop, "connection aborted"),
        (EXCHANGE_DECLARE_OK, Then::Say(method(1, 85, 11, b"")), "method 85.11 on channel 1 is no answer"),
        (SELECT_OK, Then::Stop, "connection aborted"),
        (SELECT_OK, Then::FallSilent, "not even a heartbeat"),
        (ACK, Then::Stop, "connection aborted"),
        // The wait for a missing confirm grows each time; the wait for heartbeats does not.
        (ACK, Then::FallSilent, "not even a heartbeat"),
        (ACK, Then::Say(vec![0xFF; 4096]), "no frame of type 255"),
        (ACK, Then::Say(frame(1, 1, 0x7FFF_FFFF, b"", 0xCE)), "a frame of 2147483655 bytes"),
        (
            ACK,
            Then::Say(frame(1, 1, 13, &[0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 0], 0)),
            "21 bytes that cannot be read",
        ),
        (ACK, Then::Say(ack(1 << 40, 0)), "publish number 1099511627776, which is not in flight"),
        (ACK, Then::Say(method(1, 20, 40, &close(406, "in the middle"))), ": 406 in the middle"),
        (
            ACK,
            Then::Say(method(0, 10, 50, &close(541, "in the middle"))),
            "closed the connection: 541 in the middle",
        ),
        (ACK, Then::Say(method(7, 60, 80, &[0; 9])), "a confirm on channel 7"),
        (
            ACK,
            Then::Say([method(1, 60, 50, &[0; 5]), frame_of_headers(raw_amqp::arrays(6_000))].concat()),
            "a message came back with properties that cannot be read: the headers are nested deeper than 32 levels",
        ),
        // Unexpected deliveries are skipped, so the confirm is missing.
        (
            ACK,
            Then::Babble([method(3, 60, 60, b"?"), frame_of_headers(raw_amqp::arrays(6_000))].concat()),
            "the broker confirmed nothing",
        ),
    ];
    tell(&stage, &daemon, &liar, lies).await;
    come_to_senses(&mut stage, &mut daemon, &liar, Lie { in_place_of: START, then: Then::FallSilent }).await;
}

/// Each attempt once leaked a thread, a socket and 2 MiB.
#[tokio::test]
async fn a_broker_that_says_nothing_costs_neither_threads_nor_sockets() {
    let mut stage = Stage::shared("mute").await;
    stage.source = "delivery.backoff_min_ms = 1\ndelivery.backoff_max_ms = 5".into();
    stage.rabbitmq = "connect_timeout_ms = 100".into();
    let liar = Liar::before(shared_rabbitmq().await.port(), Protocol::Amqp).await;
    liar.tell(Some(Lie { in_place_of: &[0, 10, 0, 10], then: Then::FallSilent }));
    let daemon = alive(&stage.config_through_ports(shared_postgres().await.port(), liar.port)).await;
    let most = std::cell::Cell::new(0);
    crate::stage::eventually("many attempts", async || {
        most.set(connections_to(liar.port).max(most.get()));
        liar.told() >= 60
    })
    .await;
    let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().count();
    let now = connections_to(liar.port);
    println!(
        "after {} attempts: {threads} threads, {now} connections, {} at most, {} MB",
        liar.told(),
        most.get(),
        daemon.memory_peak_mb()
    );
    assert!(most.get() > 0, "no connection was ever seen");
    assert!(threads < 30 && now < 20, "{threads} threads, {now} connections");
}

/// Number of sockets of all processes that are connected to a port of this machine. Only root sees the open files of a process
/// that may not dump core; everybody sees these lists.
fn connections_to(port: u16) -> usize {
    let lists =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|list| std::fs::read_to_string(list).unwrap_or_default());
    let is_held = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // No inode: a socket that the kernel is closing.
        fields.get(2).is_some_and(|peer| peer.ends_with(&format!(":{port:04X}")))
            && fields.get(9).is_some_and(|inode| *inode != "0")
    };
    lists.iter().flat_map(|list| list.lines()).filter(is_held).count()
}
