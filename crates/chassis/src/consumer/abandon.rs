//! Ends what lapin goes on with when nobody waits for it any more.
//!
//! lapin connects on a thread of its own, which a dropped future does not end: at a peer that accepts and then says
//! nothing, it would keep its thread, its socket and 2 MiB of buffers for ever, once more with every attempt. The end of
//! its socket is what that thread does hear.

use std::{
    io,
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// An attempt to connect. Dropped before it [`succeeded`](Self::succeeded), it takes its socket with it.
#[derive(Default)]
pub(super) struct Attempt {
    socket: Socket,
}

/// Where the attempt's thread says which socket it has.
#[derive(Clone, Default)]
pub(super) struct Socket(Arc<Mutex<State>>);

#[derive(Default)]
enum State {
    #[default]
    NotOpen,
    /// A second handle on the socket.
    Open(TcpStream),
    /// The attempt is over; a socket that comes now comes too late.
    Over,
}

impl Attempt {
    pub(super) fn socket(&self) -> Socket {
        self.socket.clone()
    }

    /// The connection is open, and whoever has it ends it.
    pub(super) fn succeeded(self) {
        *self.socket.state() = State::Over;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let State::Open(socket) = std::mem::replace(&mut *self.socket.state(), State::Over) {
            // An error means that it is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Socket {
    /// Names the socket.
    ///
    /// # Errors
    ///
    /// The attempt is over, or there are too many open files for a second handle.
    pub(super) fn is(&self, socket: &impl AsFd) -> io::Result<()> {
        let mut state = self.state();
        if let State::Over = *state {
            return Err(io::ErrorKind::TimedOut.into());
        }
        *state = State::Open(socket.as_fd().try_clone_to_owned()?.into());
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
