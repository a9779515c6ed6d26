//! Distance to a node: a TCP relay that forwards all data after a delay, however much is in transit.
//!
//! Uses threads and blocking sockets, because a runtime's timers count milliseconds, and half of one matters here.
//! The proxy of `crates/testkit` delays each piece before it reads the next one, which makes a slow link, not a long
//! one.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};
use testkit::ports::Port;

const PIECE_BYTES: usize = 64 * 1024;
/// Most pieces in transit. Beyond it TCP stops the sender, as at the end of its window.
const PIECES: usize = 256;

/// Distance to a node. Its threads end with its connections and with this process.
pub struct Distance {
    port: Port,
}

impl Distance {
    /// Creates a distance to `server_port` on 127.0.0.1, with half the round-trip time in each direction.
    pub fn to(server_port: u16, round_trip: Duration) -> Self {
        let port = Port::reserve();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).expect("the port is ours");
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)) else { continue };
                let clones = || Ok::<_, std::io::Error>((client.try_clone()?, server.try_clone()?));
                let (from_client, to_server) = clones().expect("sockets can be duplicated");
                carry(from_client, to_server, round_trip / 2);
                carry(server, client, round_trip / 2);
            }
        });
        Self { port }
    }

    /// Returns the port to connect to.
    pub fn port(&self) -> u16 {
        self.port.number()
    }
}

type Piece = (Instant, Vec<u8>);

fn carry(from: TcpStream, to: TcpStream, time: Duration) {
    let _ = to.set_nodelay(true);
    let (sender, receiver) = sync_channel(PIECES);
    thread::spawn(move || depart(from, &sender, time));
    thread::spawn(move || arrive(to, &receiver));
}

fn depart(mut from: TcpStream, sender: &SyncSender<Piece>, time: Duration) {
    let mut buffer = vec![0; PIECE_BYTES];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if sender.send((Instant::now() + time, buffer[..read].to_vec())).is_err() {
            return;
        }
    }
}

fn arrive(mut to: TcpStream, receiver: &Receiver<Piece>) {
    while let Ok((due, piece)) = receiver.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
