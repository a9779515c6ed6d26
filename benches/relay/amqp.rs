//! Minimal AMQP 0-9-1 on a blocking socket, only as much as a publisher with confirms needs: the fastest possible
//! client, which measures the broker and not itself.
//!
//! Frames, methods and class numbers come from the specification,
//! <https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf>.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xCE;
const BASIC: u16 = 60;
/// Silence after which the measurement is invalid.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connection with one channel in confirm mode.
pub struct Publisher {
    socket: TcpStream,
}

/// Incoming frame: type and payload.
pub struct Frame {
    kind: u8,
    payload: Vec<u8>,
}

impl Publisher {
    /// Connects as `guest`, opens channel 1 and asks for confirms.
    ///
    /// # Errors
    ///
    /// [`std::io::Error`] when the connection fails or the broker does not answer as expected.
    pub fn connect(port: u16, vhost: &str) -> std::io::Result<Self> {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut publisher = Self { socket };
        publisher.socket.write_all(b"AMQP\0\0\x09\x01")?;
        publisher.expect(10, 10)?; // connection.start
        let mut start_ok = 0u32.to_be_bytes().to_vec();
        short_string(&mut start_ok, "PLAIN");
        long_string(&mut start_ok, b"\0guest\0guest");
        short_string(&mut start_ok, "en_US");
        publisher.call(0, 10, 11, &start_ok)?;
        publisher.expect(10, 30)?; // connection.tune
        // One channel, frames of 128 KiB, no heartbeats for a connection of seconds.
        publisher.call(0, 10, 31, &[0, 1, 0, 2, 0, 0, 0, 0])?;
        let mut open = Vec::new();
        short_string(&mut open, vhost);
        open.extend([0, 0]);
        publisher.call(0, 10, 40, &open)?;
        publisher.expect(10, 41)?;
        publisher.call(1, 20, 10, &[0])?; // channel.open
        publisher.expect(20, 11)?;
        publisher.call(1, 85, 10, &[0])?; // confirm.select
        publisher.expect(85, 11)?;
        Ok(publisher)
    }

    /// Returns the socket for the thread that reads confirms.
    ///
    /// # Errors
    ///
    /// [`std::io::Error`] when the socket cannot be duplicated.
    pub fn reader(&self) -> std::io::Result<Reader> {
        Ok(Reader { socket: std::io::BufReader::new(self.socket.try_clone()?) })
    }

    /// Sends whole frames.
    ///
    /// # Errors
    ///
    /// [`std::io::Error`] when the connection is lost.
    pub fn send(&mut self, frames: &[u8]) -> std::io::Result<()> {
        self.socket.write_all(frames)
    }

    fn call(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) -> std::io::Result<()> {
        let mut frames = Vec::new();
        method_frame(&mut frames, channel, class, method, arguments);
        self.socket.write_all(&frames)
    }

    fn expect(&mut self, class: u16, method: u16) -> std::io::Result<()> {
        let frame = read_frame(&mut self.socket)?;
        let wanted = [class.to_be_bytes(), method.to_be_bytes()].concat();
        if frame.kind == METHOD && frame.payload.starts_with(&wanted) {
            return Ok(());
        }
        let got = String::from_utf8_lossy(&frame.payload).into_owned();
        Err(std::io::Error::other(format!("the broker answers {got:?} where {class}.{method} was expected")))
    }
}

/// Reader of confirms.
pub struct Reader {
    socket: std::io::BufReader<TcpStream>,
}

impl Reader {
    /// Waits for the next `basic.ack`, and returns its delivery tag and whether it covers all before.
    ///
    /// # Errors
    ///
    /// [`std::io::Error`] when the connection is lost or the broker sends something else.
    pub fn next_ack(&mut self) -> std::io::Result<(u64, bool)> {
        loop {
            let frame = read_frame(&mut self.socket)?;
            match (frame.kind, frame.payload.as_slice()) {
                (METHOD, [0, 60, 0, 80, tag @ .., bits]) if tag.len() == 8 => {
                    let tag = tag.iter().fold(0, |tag, byte| tag << 8 | u64::from(*byte));
                    return Ok((tag, bits & 1 == 1));
                }
                (METHOD, payload) => {
                    let said = String::from_utf8_lossy(payload).into_owned();
                    return Err(std::io::Error::other(format!("the broker says {said:?}, not basic.ack")));
                }
                // A heartbeat.
                _ => {}
            }
        }
    }
}

/// Returns the frames of a message: persistent, mandatory, JSON, with the headers `aggregate-type` and
/// `aggregate-id`.
pub fn message(
    exchange: &str,
    routing_key: &str,
    aggregate: u32,
    body: &[u8],
    like_outboxd: bool,
) -> Vec<u8> {
    let mut frames = Vec::with_capacity(body.len() + 200);
    let mut publish = vec![0, 0];
    short_string(&mut publish, exchange);
    short_string(&mut publish, routing_key);
    publish.push(1); // mandatory
    method_frame(&mut frames, 1, BASIC, 40, &publish);

    let aggregate = aggregate.to_string();
    let mut headers = Vec::new();
    for (name, value) in [
        ("aggregate-type", "Order"),
        ("aggregate-id", &aggregate),
        ("event-type", routing_key),
        ("outbox-source", "bench"),
        ("outbox-position", "0000000000000000-00000000"),
    ]
    .into_iter()
    .take(if like_outboxd { 5 } else { 2 })
    {
        short_string(&mut headers, name);
        headers.push(b'S');
        long_string(&mut headers, value.as_bytes());
    }
    let mut properties = Vec::new();
    properties.extend(BASIC.to_be_bytes());
    properties.extend([0, 0]);
    properties.extend((body.len() as u64).to_be_bytes());
    // Content type, headers, delivery mode; otherwise also message id, timestamp, type, application.
    let few = 0b1011_0000_0000_0000u16;
    properties.extend(if like_outboxd { few | 0b1110_1000 } else { few }.to_be_bytes());
    short_string(&mut properties, "application/json");
    long_string(&mut properties, &headers);
    properties.push(2); // persistent
    if like_outboxd {
        short_string(&mut properties, "00000000-0000-0000-0000-000000000000");
        properties.extend(0u64.to_be_bytes());
        short_string(&mut properties, routing_key);
        short_string(&mut properties, "outboxd");
    }
    frame(&mut frames, HEADER, 1, &properties);
    frame(&mut frames, BODY, 1, body);
    frames
}

fn method_frame(out: &mut Vec<u8>, channel: u16, class: u16, method: u16, arguments: &[u8]) {
    let payload = [&class.to_be_bytes(), &method.to_be_bytes(), arguments].concat();
    frame(out, METHOD, channel, &payload);
}

fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    out.push(kind);
    out.extend(channel.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out.push(FRAME_END);
}

fn read_frame(from: &mut impl Read) -> std::io::Result<Frame> {
    let mut head = [0; 7];
    from.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    let mut payload = vec![0; length + 1];
    from.read_exact(&mut payload)?;
    if payload.pop() != Some(FRAME_END) {
        return Err(std::io::Error::other("a frame does not end where it says"));
    }
    Ok(Frame { kind: head[0], payload })
}

fn short_string(out: &mut Vec<u8>, text: &str) {
    out.push(text.len() as u8);
    out.extend(text.as_bytes());
}

fn long_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
}
