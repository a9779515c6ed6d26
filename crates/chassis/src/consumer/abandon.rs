//! Cancellation of lapin's attempts to connect.
//!
//! lapin connects on a thread that a dropped future does not end. At a peer that accepts and then stays silent, each
//! attempt would keep a thread, a socket and 2 MiB of buffers for ever. Closing the socket ends the thread.

use std::{
    io,
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Attempt to connect. Dropping it before [`succeeded`](Self::succeeded) closes its socket.
#[derive(Default)]
pub(super) struct Attempt {
    socket: Socket,
}

/// Handle by which the attempt's thread reports its socket.
#[derive(Clone, Default)]
pub(super) struct Socket(Arc<Mutex<State>>);

#[derive(Default)]
enum State {
    #[default]
    NotOpen,
    /// A second handle of the socket.
    Open(TcpStream),
    /// The attempt is over. A socket that is reported now is too late.
    Over,
}

impl Attempt {
    pub(super) fn socket(&self) -> Socket {
        self.socket.clone()
    }

    /// Marks the connection as open. Its owner ends it.
    pub(super) fn succeeded(self) {
        *self.socket.state() = State::Over;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let State::Open(socket) = std::mem::replace(&mut *self.socket.state(), State::Over) {
            // An error means that the socket is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Socket {
    /// Reports the socket.
    ///
    /// # Errors
    ///
    /// [`io::Error`] when the attempt is over, or too many files are open for a second handle.
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
