//! The service manager that started this process, such as systemd with `Type=notify`: sd_notify(3) over a datagram socket.
//!
//! Knows the protocol. Does not know what a program has to say.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::{
        ffi::OsStrExt,
        net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

/// Variable with the address of the socket: a path, or `@` and an abstract name.
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// Variables of the watchdog: its interval in microseconds, and the process that it watches.
const WATCHDOG_VARIABLES: [&str; 2] = ["WATCHDOG_USEC", "WATCHDOG_PID"];

/// Handle that tells the service manager the state of this process.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Returns the service manager that the environment names. `None`: nobody listens.
    ///
    /// # Errors
    ///
    /// [`io::Error`] for an address that is none, or when the operating system gives no socket.
    pub fn of_environment() -> io::Result<Option<Self>> {
        let Some(address) = env::var_os(SOCKET_VARIABLE).filter(|address| !address.is_empty()) else {
            return Ok(None);
        };
        let [interval, process] = WATCHDOG_VARIABLES.map(env::var_os);
        Self::at(&address, watchdog(interval, process, std::process::id())).map(Some)
    }

    fn at(address: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // A service manager that does not listen for a while must not hold the process up.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address: socket_address(address)?, watchdog })
    }

    /// Interval of the watchdog. The service manager restarts the process when it hears no `WATCHDOG=1` for so long. `None`: there
    /// is no watchdog.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends assignments such as `READY=1` in one datagram. A line break in a value ends the value, because another assignment
    /// would begin behind it.
    ///
    /// # Errors
    ///
    /// [`io::Error`] when the datagram cannot be sent, also when the service manager is busy. Try again later.
    pub fn tell(&self, assignments: &[(&str, &str)]) -> io::Result<()> {
        let line = |(name, value): &(&str, &str)| {
            format!("{name}={}\n", value.split(['\n', '\r']).next().unwrap_or_default())
        };
        let text: String = assignments.iter().map(line).collect();
        self.socket.send_to_addr(text.as_bytes(), &self.address).map(drop)
    }
}

fn socket_address(address: &OsStr) -> io::Result<SocketAddr> {
    match address.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(address),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract name")),
    }
}

/// Returns the interval, if there is one and it is meant for this process.
fn watchdog(interval: Option<OsString>, process: Option<OsString>, this: u32) -> Option<Duration> {
    let number = |value: OsString| value.to_str()?.parse::<u64>().ok();
    if process.is_some_and(|process| number(process) != Some(this.into())) {
        return None;
    }
    interval.and_then(number).filter(|interval| *interval > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 1024];
        let bytes = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..bytes]).into_owned()
    }

    #[test]
    fn a_path_and_an_abstract_name_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("@outboxd-test-{}", std::process::id());
        for address in [path.as_os_str(), OsStr::new(&name)] {
            let listener = UnixDatagram::bind_addr(&socket_address(address).unwrap()).unwrap();
            let manager = ServiceManager::at(address, None).unwrap();
            manager.tell(&[("READY", "1"), ("STATUS", "orders: streaming")]).unwrap();
            assert_eq!(heard(&listener), "READY=1\nSTATUS=orders: streaming\n");
        }
        assert!(ServiceManager::at(OsStr::new("notify"), None).is_err());
    }

    #[test]
    fn no_value_adds_an_assignment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::at(path.as_os_str(), None).unwrap();
        manager.tell(&[("STATUS", "halted\nMAINPID=1\r\nREADY=1"), ("WATCHDOG", "1")]).unwrap();
        assert_eq!(heard(&listener), "STATUS=halted\nWATCHDOG=1\n");
    }

    #[test]
    fn a_manager_that_does_not_read_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _listener = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::at(path.as_os_str(), None).unwrap();
        let refused = (0..100_000).find_map(|_| manager.tell(&[("WATCHDOG", "1")]).err());
        assert_eq!(refused.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
    }

    #[test]
    fn a_watchdog_is_that_of_this_process() {
        let text = |text: &str| Some(OsString::from(text));
        let minute = Some(Duration::from_secs(60));
        for (interval, process, expected) in [
            (None, None, None),
            (text("60000000"), None, minute),
            (text("60000000"), text("42"), minute),
            (text("60000000"), text("43"), None),
            (text("60000000"), text("x"), None),
            (text("0"), text("42"), None),
            (text("soon"), text("42"), None),
        ] {
            assert_eq!(watchdog(interval.clone(), process.clone(), 42), expected, "{interval:?} {process:?}");
        }
    }
}
