//! Ports of private nodes: free, reserved for this process, and outside of the range of outgoing connections.

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
};

/// First port, below Linux's ephemeral ports, which outgoing connections use.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// TCP port on 127.0.0.1, reserved for this process until dropped.
///
/// Another test process could choose the same port between the check and the start of a node. So the UDP port of the
/// same number serves as a lock: the kernel gives it to one process and frees it with the process.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: UdpSocket,
}

impl Port {
    /// Reserves the next free port.
    pub fn reserve() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Processes that start together begin far apart and seldom collide.
        let start = (std::process::id().wrapping_mul(7919) % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = FIRST + (start + step % COUNT) % COUNT;
            let Ok(lock) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else { continue };
            // Checked on all addresses, because a listener on 0.0.0.0 conflicts, too.
            if TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).is_ok() {
                return Self { number, _lock: lock };
            }
        }
        panic!("no free port from {FIRST} to {}", FIRST + COUNT);
    }

    /// Returns the port's number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
