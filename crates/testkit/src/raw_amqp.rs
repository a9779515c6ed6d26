//! Publisher of messages that no client library writes: properties as bytes, AMQP by hand.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Flag of the property `headers` (AMQP 0-9-1 specification, 4.2.6.1).
pub const HEADERS: u16 = 1 << 13;
/// Flag of the property `correlation_id`.
pub const CORRELATION_ID: u16 = 1 << 10;
/// Flag of the property `message_id`.
pub const MESSAGE_ID: u16 = 1 << 7;
/// Flag of the property `type`.
pub const TYPE: u16 = 1 << 5;

/// Connection to a broker in confirm mode.
#[derive(Debug)]
pub struct RawPublisher {
    stream: TcpStream,
    frame_max: usize,
}

impl RawPublisher {
    /// Connects as `guest` to the broker and virtual host of `url`, with frames as long as the broker accepts.
    pub async fn connect(url: &str) -> Self {
        let (authority, vhost) = url.strip_prefix("amqp://guest:guest@").unwrap().split_once('/').unwrap();
        let vhost: Vec<u8> = percent_encoding::percent_decode_str(vhost).collect();
        let stream = TcpStream::connect(authority).await.expect("the broker listens");
        let mut publisher = Self { stream, frame_max: 0 };
        publisher.stream.write_all(b"AMQP\0\0\x09\x01").await.unwrap();
        publisher.expect(10, 10).await;
        let login = [&table(&[])[..], &short(b"PLAIN"), &long(b"\0guest\0guest"), &short(b"en_US")];
        publisher.method(0, 10, 11, &login.concat()).await;
        let tune = publisher.expect(10, 30).await;
        publisher.frame_max = u32::from_be_bytes(tune[6..10].try_into().unwrap()) as usize;
        publisher.method(0, 10, 31, &[&tune[4..10], &[0, 0]].concat()).await;
        publisher.method(0, 10, 40, &[&short(&vhost)[..], &[0, 0]].concat()).await;
        publisher.expect(10, 41).await;
        publisher.method(1, 20, 10, &[0]).await;
        publisher.expect(20, 11).await;
        publisher.method(1, 85, 10, &[0]).await;
        publisher.expect(85, 11).await;
        publisher
    }

    /// Publishes a message with these properties, which begin with their flags, and waits for the confirm.
    pub async fn publish(&mut self, exchange: &str, routing_key: &[u8], properties: &[u8], body: &[u8]) {
        let publish = [&[0, 0][..], &short(exchange.as_bytes()), &short(routing_key), &[0]].concat();
        self.method(1, 60, 40, &publish).await;
        let size = (body.len() as u64).to_be_bytes();
        self.frame(2, 1, &[&[0, 60, 0, 0][..], &size, properties].concat()).await;
        for part in body.chunks(self.frame_max - 8) {
            self.frame(3, 1, part).await;
        }
        self.expect(60, 80).await;
    }

    async fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(1, channel, &payload).await;
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        self.stream.write_all(&frame(kind, channel, payload)).await.expect("the broker takes a frame");
    }

    /// Returns the payload of the next frame, which must be this method.
    async fn expect(&mut self, class: u16, method: u16) -> Vec<u8> {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).await.expect("the broker answers");
        let mut rest = vec![0; u32::from_be_bytes(head[3..].try_into().unwrap()) as usize + 1];
        self.stream.read_exact(&mut rest).await.expect("a whole frame");
        let wanted = [class.to_be_bytes(), method.to_be_bytes()].concat();
        assert!(rest.starts_with(&wanted), "{class}.{method} was expected: {}", rest.escape_ascii());
        rest
    }
}

/// Returns a frame.
pub fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind][..], &channel.to_be_bytes(), &size, payload, &[0xCE]].concat()
}

/// Returns the frame of a method.
pub fn method(channel: u16, class: u16, method: u16, arguments: &[u8]) -> Vec<u8> {
    frame(1, channel, &[&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat())
}

/// Returns properties: their flags, then each value.
pub fn properties(flags: u16, values: &[&[u8]]) -> Vec<u8> {
    [&flags.to_be_bytes()[..], &values.concat()].concat()
}

/// Returns a short text.
pub fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

/// Returns bytes after their length.
pub fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// Returns a table of values that begin with the letter of their type.
pub fn table(entries: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
    long(&entries.iter().flat_map(|(name, value)| [short(name), value.clone()].concat()).collect::<Vec<u8>>())
}

/// Returns a long text as a value.
pub fn text(text: &[u8]) -> Vec<u8> {
    [b"S", &long(text)[..]].concat()
}

/// Returns an array of one value as a value.
pub fn array(value: &[u8]) -> Vec<u8> {
    [b"A", &long(value)[..]].concat()
}

/// Returns nested arrays as a value.
pub fn arrays(depth: usize) -> Vec<u8> {
    // Built from outside, because building from inside takes quadratic time.
    (1..=depth).rev().flat_map(|level| [b"A", &((level - 1) * 5).to_be_bytes()[4..]].concat()).collect()
}

/// Returns nested tables as a value, each the only member of the outer one.
pub fn tables(depth: usize) -> Vec<u8> {
    (0..depth).fold(b"V".to_vec(), |value, _| [b"F", &table(&[(b"n", value)])[..]].concat())
}
