//! Ceilings of the nodes alone: PostgreSQL decoding, and RabbitMQ confirming.

use crate::{
    amqp::{self, Publisher},
    queue::EXCHANGE,
    stage::{DATABASE, Stage, VHOST},
};
use std::{
    collections::HashSet,
    sync::{Condvar, Mutex},
    time::{Duration, Instant},
};
use testkit::postgres;
use tokio::process::Command;

const PUBLICATION: &str = "ceiling";
const SLOT: &str = "ceiling";
/// Most unconfirmed messages: the relay's default.
const WINDOW: u64 = 4096;
/// Bytes of one write.
const CHUNK_BYTES: usize = 64 * 1024;
const LIMIT: Duration = Duration::from_secs(300);

/// Creates publication and slot for decoding, before the rows are written.
pub async fn prepare_decoding(stage: &Stage) {
    let publication = format!("CREATE PUBLICATION {PUBLICATION} FOR TABLE outbox WITH (publish = 'insert')");
    stage.client.batch_execute(&publication).await.expect("publication created");
    let slot = format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')");
    stage.client.batch_execute(&slot).await.expect("slot created");
}

/// Moves the slot to the end of WAL.
pub async fn catch_up(stage: &Stage) {
    let advance = format!("SELECT pg_replication_slot_advance('{SLOT}', pg_current_wal_lsn())");
    stage.client.batch_execute(&advance).await.expect("slot advanced");
}

/// Returns the rows per second that `pg_recvlogical` receives from pgoutput and discards, from its start to its end.
pub async fn decoding(stage: &Stage, rows: u32) -> f64 {
    let end: String =
        stage.client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.expect("position").get(0);
    let begun = Instant::now();
    let mut program = Command::new(postgres::bin_dir().join("pg_recvlogical"));
    program
        .args(["--dbname", &stage.postgres.url(DATABASE), "--slot", SLOT, "--start", "--no-loop"])
        .args(["--endpos", &end, "--file", "/dev/null", "--fsync-interval", "0"])
        .args(["--option", "proto_version=1", "--option", &format!("publication_names={PUBLICATION}")])
        .kill_on_drop(true);
    let status = tokio::time::timeout(LIMIT, program.status()).await.expect("decoded in time");
    assert!(status.expect("pg_recvlogical runs").success(), "pg_recvlogical failed");
    f64::from(rows) / begun.elapsed().as_secs_f64()
}

/// Returns the messages per second that the broker confirms into a new queue, from the first frame to the last
/// confirm. They are encoded before and written in large pieces, so that the client costs next to nothing.
///
/// `like_outboxd`: with all properties and headers of the relay's messages; otherwise with a content type and two
/// headers.
pub async fn broker(stage: &Stage, messages: u32, payload_bytes: usize, like_outboxd: bool) -> f64 {
    let port = stage.broker.port();
    tokio::task::spawn_blocking(move || publish(port, messages, payload_bytes, like_outboxd))
        .await
        .expect("no panic")
        .expect("the broker takes the messages")
}

fn publish(port: u16, messages: u32, payload_bytes: usize, like_outboxd: bool) -> std::io::Result<f64> {
    let body = vec![b'x'; payload_bytes];
    let frames: Vec<Vec<u8>> = (0..messages)
        .map(|n| amqp::message(EXCHANGE, "OrderCreated", n % 10_000, &body, like_outboxd))
        .collect();
    let mut publisher = Publisher::connect(port, VHOST)?;
    let mut reader = publisher.reader()?;
    let confirmed = Confirmed::default();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let heard = scope.spawn(|| {
            while confirmed.count() < u64::from(messages) {
                let (tag, multiple) = reader.next_ack().inspect_err(|_| confirmed.end())?;
                confirmed.ack(tag, multiple);
            }
            Ok(())
        });
        let mut sent = 0;
        while sent < frames.len() {
            let free = WINDOW - (sent as u64 - confirmed.wait_for_room(sent as u64));
            let (mut chunk, last) = (Vec::with_capacity(CHUNK_BYTES), frames.len().min(sent + free as usize));
            while sent < last && chunk.len() < CHUNK_BYTES {
                chunk.extend(&frames[sent]);
                sent += 1;
            }
            publisher.send(&chunk)?;
        }
        heard.join().expect("no panic")
    })
    .map(|()| f64::from(messages) / begun.elapsed().as_secs_f64())
}

/// Number of confirmed messages, shared by two threads.
#[derive(Default)]
struct Confirmed {
    state: Mutex<Tags>,
    changed: Condvar,
}

#[derive(Default)]
struct Tags {
    /// All tags up to this one are confirmed.
    up_to: u64,
    /// Tags confirmed individually beyond it.
    beyond: HashSet<u64>,
    /// No more confirms will arrive.
    ended: bool,
}

impl Confirmed {
    fn count(&self) -> u64 {
        let tags = self.state.lock().expect("no panic");
        tags.up_to + tags.beyond.len() as u64
    }

    fn ack(&self, tag: u64, multiple: bool) {
        let mut tags = self.state.lock().expect("no panic");
        if multiple {
            tags.up_to = tags.up_to.max(tag);
            tags.beyond.retain(|beyond| *beyond > tag);
        } else {
            tags.beyond.insert(tag);
        }
        loop {
            let next = tags.up_to + 1;
            if !tags.beyond.remove(&next) {
                break;
            }
            tags.up_to = next;
        }
        self.changed.notify_one();
    }

    fn end(&self) {
        self.state.lock().expect("no panic").ended = true;
        self.changed.notify_one();
    }

    /// Waits until fewer messages of `sent` than the window are unconfirmed, and returns the number of confirmed
    /// ones.
    fn wait_for_room(&self, sent: u64) -> u64 {
        let full = |tags: &mut Tags| !tags.ended && sent - tags.up_to - tags.beyond.len() as u64 >= WINDOW;
        let tags = self.changed.wait_while(self.state.lock().expect("no panic"), full).expect("no panic");
        assert!(!tags.ended, "the broker confirms no more");
        tags.up_to + tags.beyond.len() as u64
    }
}
