//! Distance to a node: a TCP relay that hands everything on after a time, however much is on its way meanwhile.
//!
//! Threads and blocking sockets, because a runtime's timer counts in milliseconds, and half of one matters here. The
//! proxy of `crates/testkit` holds each piece back before it reads the next one, which is a slow link and not a long one.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};
use testkit::ports::Port;

const PIECE_BYTES: usize = 64 * 1024;
/// Pieces on their way at most: beyond that TCP stops the sender, as it does at the end of its window.
const PIECES: usize = 256;

/// A way to a node. Its threads end with its connections, and with this process.
pub struct Distance {
    port: Port,
}

impl Distance {
    /// To `server_port` on 127.0.0.1, half the round-trip time each way.
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

    /// The port to connect to instead.
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
