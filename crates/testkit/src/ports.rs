//! Ports for private nodes: free, not given to anybody else meanwhile, and not taken by an outgoing connection.

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
};

/// Below Linux's ephemeral ports, from which outgoing connections take theirs.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// A TCP port on 127.0.0.1 that is this process's until dropped.
///
/// Between the moment a port is seen to be free and the moment a node listens on it, another test process could choose the same.
/// The UDP port of the same number serves as the lock: the kernel gives it to one process and takes it back when that ends.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: UdpSocket,
}

impl Port {
    /// Takes the next free port.
    pub fn reserve() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Processes that start together begin far apart and so seldom meet.
        let start = (std::process::id().wrapping_mul(7919) % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = FIRST + (start + step % COUNT) % COUNT;
            let Ok(lock) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else { continue };
            // On all addresses: what listens on 0.0.0.0 is in the way too.
            if TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).is_ok() {
                return Self { number, _lock: lock };
            }
        }
        panic!("no free port from {FIRST} to {}", FIRST + COUNT);
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
