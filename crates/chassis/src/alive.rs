//! The command `health` of a service: tells a container's runtime whether the service beside it is alive.
//!
//! Asks `/healthz` at `listen` and reads no other key. What a service waits for is no reason to restart it, and `/readyz` shows it.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use process::{failure::Failure, loopback::reachable};

/// Time limit of the connection, and of each read and write.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest status line that is read.
const STATUS_LINE_MAX: u64 = 64;

/// Asks the service that listens at `listen`.
///
/// # Errors
///
/// [`Failure`] when nobody answers, or something else than 200.
pub(crate) fn ask(listen: SocketAddr) -> Result<(), Failure> {
    let address = reachable(listen);
    let status = status_line(address).map_err(|error| {
        Failure::Runtime(format!(
            "no service answers at {address}: {error}; see whether the process runs, and its log"
        ))
    })?;
    if status.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    Err(Failure::Runtime(format!(
        "{address} answered with \"{}\"; listen may be the address of another program",
        status.trim_end()
    )))
}

fn status_line(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut line = Vec::new();
    stream.take(STATUS_LINE_MAX).read_to_end(&mut line)?;
    let text = String::from_utf8_lossy(&line);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::{net::TcpListener, thread};

    #[test]
    fn only_an_answer_with_200_is_alive() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let service = thread::spawn(move || {
            for answer in ["HTTP/1.1 200 OK\r\n\r\nok\n", "HTTP/1.1 503 No\r\n\r\n", ""] {
                let (mut stream, _) = listener.accept().unwrap();
                let read = stream.read(&mut [0; 1024]).unwrap();
                assert!(read > 0);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        ask(address).unwrap();
        for expected in ["answered with \"HTTP/1.1 503 No\"", "answered with \"\""] {
            let text = ask(address).unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        }
        service.join().unwrap();
        let text = ask(address).unwrap_err().to_string();
        assert!(text.contains("no service answers at"), "{text}");
    }
}
