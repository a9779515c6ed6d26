//! Servers that flood: PostgreSQL and RabbitMQ behind a [`Liar`] that repeats one message without end at some step of the
//! protocol. The daemon's memory stays bounded, probes are answered, SIGTERM ends the daemon, and every row is delivered after
//! the flood.

use std::time::{Duration, Instant};

use crate::stage::{PATIENCE, Stage, alive, eventually, until};
use testkit::{
    Daemon,
    liar::{ACK, CHANNEL_OPEN_OK, Liar, Lie, OPEN_OK, Protocol, QUEUE_DECLARE_OK, Then},
    raw_amqp::{frame, method, short},
    shared_postgres, shared_rabbitmq,
};

/// Duration of each flood from its first byte. Without limits, memory grew by hundreds of megabytes in that time.
const LASTS: Duration = Duration::from_secs(4);
/// Highest peak memory under any flood. A debug build uses 16 MB without a flood, and used up to 384 MB without limits.
const MEMORY_MB_MAX: u64 = 100;

/// Kind of the message to replace, prefix, messages to repeat, and words that the source's last error must have: those of the
/// exceeded limit. No words for messages of which at most the last one counts.
type Flood = (&'static str, &'static [u8], fn(u64) -> Vec<u8>, &'static str);

const BLOCKS: &str = "connection.blocked or connection.unblocked more than 100 times in 1 s";
const UNASKED: &str = "more than 64 frames that nobody asked for, in place of an answer";
const SILENT: &str = "the broker confirmed nothing";

async fn bear(stage: &Stage, daemon: &Daemon, liar: &Liar, floods: Vec<Flood>) {
    let mut sequence = 0;
    for (what, in_place_of, messages, words) in floods {
        daemon.forget_memory_peak();
        liar.tell(Some(Lie { in_place_of, then: Then::Flood(messages) }));
        let mut begun: Option<Instant> = None;
        let mut reason = String::new();
        let deadline = Instant::now() + PATIENCE;
        while begun.is_none_or(|begun| begun.elapsed() < LASTS) || !reason.contains(words) {
            sequence += 1;
            stage.write_row("a", sequence, "OrderCreated").await;
            // The probe must answer, ready or not.
            let (_, text) = daemon.readyz().await;
            assert!(text.len() < 10_000, "{what}: {} bytes in /readyz", text.len());
            if liar.told() > 0 {
                begun.get_or_insert_with(Instant::now);
                let source = crate::stage::source(daemon, "orders").await;
                let last = source["last_error"].as_str().unwrap_or_default();
                // One attempt must report it; the next may end otherwise.
                if !reason.contains(words) || words.is_empty() {
                    reason = last.to_owned();
                }
            }
            assert!(Instant::now() < deadline, "{what}: '{words}' is not in '{reason}'; {text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let peak = daemon.memory_peak_mb();
        println!(
            "{what}: {peak} MB, met {} times\n    {}",
            liar.told(),
            reason.chars().take(250).collect::<String>()
        );
        assert!(peak < MEMORY_MB_MAX, "{what}: {peak} MB");
    }
}

/// Stops the daemon during a last flood, starts it again, and checks that nothing is lost.
async fn end_and_recover(stage: &mut Stage, daemon: &mut Daemon, liar: &Liar, last: Flood) {
    let (what, in_place_of, messages, _) = last;
    liar.tell(None);
    until(daemon, "orders", |shown| shown["state"] == "streaming").await;
    liar.tell(Some(Lie { in_place_of, then: Then::Flood(messages) }));
    stage.write_row("b", 1, "OrderCreated").await;
    eventually("the last flood is met", async || liar.told() > 0).await;
    println!("SIGTERM under {what}: {}", daemon.sigterm(Duration::from_secs(60)).await);
    liar.tell(None);
    daemon.start_again();
    until_streaming(daemon).await;
    let verdict = stage.verdict().await;
    assert!(verdict.keeps_promises(), "{verdict}");
}

async fn until_streaming(daemon: &mut Daemon) {
    crate::stage::until_alive(daemon).await;
    until(daemon, "orders", |shown| shown["state"] == "streaming").await;
}

/// A PostgreSQL message.
fn message(tag: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + 4).unwrap();
    [&[tag], &length.to_be_bytes()[..], payload].concat()
}

fn parameter(number: u64) -> Vec<u8> {
    message(b'S', format!("p{number}\0{}\0", "v".repeat(200)).as_bytes())
}

fn notice(number: u64) -> Vec<u8> {
    message(b'N', format!("SNOTICE\0C00000\0M{number}{}\0\0", "x".repeat(1000)).as_bytes())
}

fn notification(number: u64) -> Vec<u8> {
    message(b'A', format!("\0\0\0\x01c{number}\0{}\0", "x".repeat(1000)).as_bytes())
}

fn row(number: u64) -> Vec<u8> {
    message(b'D', &[&[0, 1, 0, 0, 0, 8], &number.to_be_bytes()[..]].concat())
}

fn empty_row(_: u64) -> Vec<u8> {
    message(b'D', &[0, 0])
}

fn description(_: u64) -> Vec<u8> {
    message(b'T', &[0, 0])
}

/// A keepalive that requests an answer.
fn keepalive(_: u64) -> Vec<u8> {
    message(b'd', &[&b"k"[..], &[0; 16], &[1]].concat())
}

/// Describes a table without columns, with an OID far from the outbox table's.
fn relation(number: u64) -> Vec<u8> {
    let oid = u32::try_from((1 << 30) + number % (1 << 30)).unwrap().to_be_bytes();
    let relation = [&b"R"[..], &oid, format!("public\0t{number}\0f\0\0").as_bytes()].concat();
    message(b'd', &[&b"w"[..], &[0; 24], &relation].concat())
}

#[tokio::test]
async fn a_postgresql_that_never_pauses() {
    let mut stage = Stage::shared("pgflood").await;
    stage.make_impatient();
    let liar = Liar::before(shared_postgres().await.port(), Protocol::Postgres).await;
    stage.consume().await;
    let config = stage.config_through_ports(liar.port, shared_rabbitmq().await.port());
    let config = config.replace("\"\npostgres.slot", "?sslmode=disable&connect_timeout=2\"\npostgres.slot");
    let mut daemon = alive(&config).await;
    until(&daemon, "orders", |shown| shown["state"] == "streaming").await;
    let floods: Vec<Flood> = vec![
        ("parameters in place of the first word", b"R", parameter, "unexpected message from server"),
        ("parameters at login", b"Z", parameter, "more than 256 parameters"),
        ("notices at login", b"Z", notice, "more than 1048576 bytes before the login is complete"),
        ("parameters in an answer", b"T", parameter, ""),
        ("notices in an answer", b"T", notice, ""),
        ("descriptions in an answer", b"T", description, ""),
        ("rows in an answer", b"D", row, "an answer that takes more than 16 MiB"),
        ("empty rows in an answer", b"D", empty_row, "field count does not match"),
        ("parameters at the start of the stream", b"W", parameter, ""),
        ("rows at the start of the stream", b"W", row, "message 'D' while starting replication"),
        ("parameters in the stream", b"d", parameter, ""),
        ("notices in the stream", b"d", notice, ""),
        ("notifications in the stream", b"d", notification, ""),
        ("keepalives", b"d", keepalive, ""),
        ("descriptions of tables", b"d", relation, ""),
    ];
    bear(&stage, &daemon, &liar, floods).await;
    end_and_recover(&mut stage, &mut daemon, &liar, ("notices in the stream", b"d", notice, "")).await;
}

fn blocked(number: u64) -> Vec<u8> {
    method(0, 10, 60, &short(format!("{number} {}", "x".repeat(200)).as_bytes()))
}

fn blocked_and_unblocked(number: u64) -> Vec<u8> {
    [blocked(number), method(0, 10, 61, &[])].concat()
}

fn heartbeat(_: u64) -> Vec<u8> {
    frame(8, 0, &[])
}

fn confirm(number: u64) -> Vec<u8> {
    method(1, 60, 80, &[&number.to_be_bytes()[..], &[0]].concat())
}

/// Content header without properties, and a body.
fn content(channel: u16, bytes: usize) -> Vec<u8> {
    let size = u64::try_from(bytes).unwrap().to_be_bytes();
    let header = [&[0, 60, 0, 0][..], &size, &[0, 0]].concat();
    [frame(2, channel, &header), frame(3, channel, &vec![7; bytes])].concat()
}

fn returned(_: u64) -> Vec<u8> {
    let arguments = [&312_u16.to_be_bytes()[..], &short(b"NO_ROUTE"), &short(b"e"), &short(b"k")].concat();
    [method(1, 60, 50, &arguments), content(1, 4000)].concat()
}

fn delivered(number: u64) -> Vec<u8> {
    let arguments = [&short(b"c")[..], &number.to_be_bytes(), &[0], &short(b"e"), &short(b"k")].concat();
    [method(3, 60, 60, &arguments), content(3, 4000)].concat()
}

fn bodies(_: u64) -> Vec<u8> {
    frame(3, 1, &[7; 4000])
}

fn fence_channel_closed(_: u64) -> Vec<u8> {
    method(3, 20, 40, &[&405_u16.to_be_bytes()[..], &short(b"RESOURCE_LOCKED"), &[0; 4]].concat())
}

fn channel_closed(_: u64) -> Vec<u8> {
    method(1, 20, 40, &[&406_u16.to_be_bytes()[..], &short(b"PRECONDITION_FAILED"), &[0; 4]].concat())
}

fn fence_channel_opened(_: u64) -> Vec<u8> {
    method(3, 20, 11, &[0; 4])
}

fn flow(_: u64) -> Vec<u8> {
    method(1, 20, 20, &[0])
}

#[tokio::test]
async fn a_broker_that_never_pauses() {
    let mut stage = Stage::shared("mqflood").await;
    stage.make_impatient();
    let liar = Liar::before(shared_rabbitmq().await.port(), Protocol::Amqp).await;
    stage.consume().await;
    let config = stage.config_through_ports(shared_postgres().await.port(), liar.port);
    let mut daemon = alive(&config).await;
    until(&daemon, "orders", |shown| shown["state"] == "streaming").await;
    let floods: Vec<Flood> = vec![
        (
            "connection.blocked at login",
            OPEN_OK,
            blocked,
            "something else where connection.open-ok must come",
        ),
        ("heartbeats at login", OPEN_OK, heartbeat, "did not answer within"),
        ("connection.blocked in place of an answer", CHANNEL_OPEN_OK, blocked, BLOCKS),
        ("confirms in place of an answer", CHANNEL_OPEN_OK, confirm, UNASKED),
        ("returned messages in place of an answer", CHANNEL_OPEN_OK, returned, UNASKED),
        ("deliveries in place of an answer", CHANNEL_OPEN_OK, delivered, ""),
        (
            "closes in place of the publisher queue",
            QUEUE_DECLARE_OK,
            fence_channel_closed,
            "channel 3 is closed, and it is not open",
        ),
        (
            "opened channels in place of the publisher queue",
            QUEUE_DECLARE_OK,
            fence_channel_opened,
            "is no answer to anything",
        ),
        ("connection.blocked in place of the publisher queue", QUEUE_DECLARE_OK, blocked, BLOCKS),
        ("connection.blocked in place of a confirm", ACK, blocked, BLOCKS),
        ("connection.blocked and unblocked in place of a confirm", ACK, blocked_and_unblocked, BLOCKS),
        ("returned messages in place of a confirm", ACK, returned, "a message that is not in flight"),
        ("deliveries in place of a confirm", ACK, delivered, SILENT),
        ("bodies of nothing in place of a confirm", ACK, bodies, SILENT),
        ("channel.flow in place of a confirm", ACK, flow, "no broker sends method 20.20"),
        ("heartbeats in place of a confirm", ACK, heartbeat, ""),
        ("closes of a channel in place of a confirm", ACK, channel_closed, "closed the channel: 406"),
    ];
    bear(&stage, &daemon, &liar, floods).await;
    end_and_recover(&mut stage, &mut daemon, &liar, ("deliveries", ACK, delivered, "")).await;
}
