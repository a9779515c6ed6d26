//! Proxy that parses a node's messages, passes them on up to a certain one, and then lies. So a server stops, babbles
//! or falls silent at any step of its protocol.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    sync::watch,
};

/// Class and method of `connection.start`.
pub const START: &[u8] = &[0, 10, 0, 10];
/// Class and method of `connection.tune`.
pub const TUNE: &[u8] = &[0, 10, 0, 30];
/// Class and method of `connection.open-ok`.
pub const OPEN_OK: &[u8] = &[0, 10, 0, 41];
/// Class and method of `channel.open-ok`.
pub const CHANNEL_OPEN_OK: &[u8] = &[0, 20, 0, 11];
/// Class and method of `exchange.declare-ok`.
pub const EXCHANGE_DECLARE_OK: &[u8] = &[0, 40, 0, 11];
/// Class and method of `queue.declare-ok`.
pub const QUEUE_DECLARE_OK: &[u8] = &[0, 50, 0, 11];
/// Class and method of `confirm.select-ok`.
pub const SELECT_OK: &[u8] = &[0, 85, 0, 11];
/// Class and method of `basic.ack`.
pub const ACK: &[u8] = &[0, 60, 0, 80];

/// Bytes of a flood written at a time.
const FLOOD_BYTES: usize = 64 << 10;

/// Framing of messages, and the place of a message's kind.
#[derive(Clone, Copy, Debug)]
pub enum Protocol {
    /// Tag, then a length that includes itself (manual, "Message Formats").
    Postgres,
    /// Type, channel, size, payload, end. A method's payload begins with class and method (AMQP 0-9-1, 2.3.5).
    Amqp,
}

impl Protocol {
    /// Returns length and kind of the message at the start of `bytes`; `None` if more bytes are needed.
    fn message(self, bytes: &[u8]) -> Option<(usize, &[u8])> {
        let number =
            |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().unwrap()) as usize);
        let (length, kind) = match self {
            Self::Postgres => (1 + number(1)?, 0..1),
            Self::Amqp if *bytes.first()? == 1 => (7 + number(3)? + 1, 7..11),
            Self::Amqp => (7 + number(3)? + 1, 0..1),
        };
        (bytes.len() >= length).then(|| (length, &bytes[kind]))
    }
}

/// Lie in place of the first message of a kind.
#[derive(Clone)]
pub struct Lie {
    /// Kind of the message: class and method, or tag.
    pub in_place_of: &'static [u8],
    /// The lie.
    pub then: Then,
}

/// Content of a [`Lie`].
#[derive(Clone)]
pub enum Then {
    /// Half of the message, then the end of the connection.
    Stop,
    /// Half of the message, then silence.
    FallSilent,
    /// Fixed bytes, then silence.
    Say(Vec<u8>),
    /// Fixed bytes, repeated for ever.
    Babble(Vec<u8>),
    /// Endless messages made from 0, 1, 2, ..., as fast as they are read.
    Flood(fn(u64) -> Vec<u8>),
}

impl fmt::Display for Then {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begin = |bytes: &[u8]| bytes[..bytes.len().min(40)].escape_ascii().to_string();
        match self {
            Self::Stop => f.write_str("an end in mid-message"),
            Self::FallSilent => f.write_str("silence in mid-message"),
            Self::Say(bytes) => write!(f, "{} bytes '{}'", bytes.len(), begin(bytes)),
            Self::Babble(bytes) => write!(f, "'{}' for ever", begin(bytes)),
            Self::Flood(message) => write!(f, "'{}' and more without end", begin(&message(0))),
        }
    }
}

/// The proxy. Its connections end when its lie changes.
pub struct Liar {
    /// Port on 127.0.0.1 on which it listens.
    pub port: u16,
    lie: watch::Sender<Option<Lie>>,
    told: Arc<AtomicUsize>,
}

impl Liar {
    /// Starts a proxy without a lie.
    pub async fn before(server_port: u16, protocol: Protocol) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (lie, orders) = watch::channel(None);
        let told = Arc::new(AtomicUsize::new(0));
        let count = told.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (mut orders, count) = (orders.clone(), count.clone());
                let lie = orders.borrow_and_update().clone();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = orders.changed() => {}
                        () = serve(client, server_port, protocol, lie, &count) => {}
                    }
                });
            }
        });
        Self { port, lie, told }
    }

    /// Sets the lie for new connections, and ends the old ones.
    pub fn tell(&self, lie: Option<Lie>) {
        self.told.store(0, Ordering::SeqCst);
        self.lie.send_replace(lie);
    }

    /// Returns the number of lies told.
    pub fn told(&self) -> usize {
        self.told.load(Ordering::SeqCst)
    }
}

async fn serve(client: TcpStream, port: u16, protocol: Protocol, lie: Option<Lie>, told: &AtomicUsize) {
    let Ok(server) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let upward = async { drop(tokio::io::copy(&mut from_client, &mut to_server).await) };
    let downward = async {
        let Some(lie) = lie else {
            drop(tokio::io::copy(&mut from_server, &mut to_client).await);
            return;
        };
        let mut held = Vec::new();
        while from_server.read_buf(&mut held).await.is_ok_and(|bytes| bytes > 0) {
            while let Some((length, kind)) = protocol.message(&held) {
                if kind == lie.in_place_of {
                    told.fetch_add(1, Ordering::SeqCst);
                    return speak(&mut to_client, lie.then, &held[..length / 2]).await;
                }
                if to_client.write_all(&held[..length]).await.is_err() {
                    return;
                }
                held.drain(..length);
            }
        }
    };
    // The end of either side ends both.
    tokio::select! {
        () = upward => {}
        () = downward => {}
    }
}

async fn speak(to_client: &mut OwnedWriteHalf, then: Then, half: &[u8]) {
    match then {
        Then::Stop => drop(to_client.write_all(half).await),
        Then::FallSilent => {
            let _ = to_client.write_all(half).await;
            std::future::pending().await
        }
        Then::Say(bytes) => {
            let _ = to_client.write_all(&bytes).await;
            std::future::pending().await
        }
        Then::Flood(message) => {
            let mut numbers = 0..;
            loop {
                let mut bytes = Vec::new();
                while bytes.len() < FLOOD_BYTES {
                    bytes.extend(numbers.next().map(message).unwrap_or_default());
                }
                if to_client.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        }
        Then::Babble(bytes) => while to_client.write_all(&bytes).await.is_ok() {},
    }
}
