//! Servers that are not PostgreSQL, lie, or stop mid-message: the client returns a typed error at once and takes
//! little memory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use pg_replication::{
    AuthenticationError, Endpoint, ReplicationConnection, ReplicationError, WireError, simple_answer,
};

/// Longest message of a server before the login is complete.
const LOGIN_MESSAGE_BYTES_MAX: usize = 64 << 10;

const READY: &[u8] = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x24search_path\0pg_catalog, pg_temp\0Z\0\0\0\x05I";

/// A server that reads once, sends `answer`, and then closes or holds the connection.
async fn server(answer: Vec<u8>, then_close: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(&answer).await;
            if !then_close {
                held.push(stream);
            }
        }
    });
    address
}

async fn replication(address: SocketAddr, options: &str) -> Result<ReplicationConnection, WireError> {
    let text = format!(
        "postgresql://u:pw@127.0.0.1:{}/db?sslmode=disable&connect_timeout=2{options}",
        address.port()
    );
    let endpoint = Endpoint::parse(&text).unwrap();
    ReplicationConnection::connect(&endpoint, "test", Duration::from_secs(60)).await.map_err(cause)
}

/// Returns the error of a command to the server.
async fn answer(mut connection: ReplicationConnection) -> WireError {
    cause(connection.query("SELECT 1").await.unwrap_err())
}

fn cause(error: ReplicationError) -> WireError {
    match error {
        ReplicationError::Connect(error) => error.cause,
        ReplicationError::Command { cause, .. } | ReplicationError::Stream(cause) => cause,
        ReplicationError::Ended => panic!("{error}"),
    }
}

async fn sql(address: SocketAddr) -> Result<tokio_postgres::Client, WireError> {
    let text = format!("postgresql://u:pw@127.0.0.1:{}/db?sslmode=disable&connect_timeout=2", address.port());
    Endpoint::parse(&text).unwrap().connect_sql("test").await.map_err(|error| error.cause)
}

/// Returns a message with the correct length.
fn message(tag: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + 4).unwrap();
    [&[tag], length.to_be_bytes().as_slice(), payload].concat()
}

#[tokio::test]
async fn garbage_is_a_protocol_error() {
    for garbage in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        vec![0; 64],
        vec![0xFF; 64],
        message(b'R', b"\0"),
        message(b'R', b"\0\0\0\x05"),
        message(b'R', b"\0\0\0\x0A no end"),
        message(b'S', b"no zero byte"),
        message(b'D', b"\0\0"),
        [message(b'R', &[0; 4]), message(b'D', b"\0\x01\xFF\0\0\0")].concat(),
        [message(b'R', &[0; 4]), message(b'd', b"w")].concat(),
    ] {
        // Every method is allowed, so the refusal is about the message.
        let methods = "&require_auth=none,password,md5,scram-sha-256";
        let error = replication(server(garbage.clone(), false).await, methods).await.err().unwrap();
        assert!(matches!(error, WireError::Protocol(_)), "{garbage:?}: {error:?}");
    }
}

#[tokio::test]
async fn an_end_in_the_middle_of_a_message_is_named_so() {
    for (said, cut) in
        [(&b""[..], false), (b"R", true), (b"R\0\0\0\x08\0\0", true), (b"R\0\0\0\x08\0\0\0\0", false)]
    {
        let address = server(said.to_vec(), true).await;
        for error in [replication(address, "").await.err().unwrap(), sql(address).await.err().unwrap()] {
            assert!(
                matches!(error, WireError::Closed { mid_message } if mid_message == cut),
                "{said:?}: {error:?}"
            );
        }
    }
}

#[tokio::test]
async fn silence_ends_with_connect_timeout() {
    let started = Instant::now();
    for said in [&b""[..], b"R\0\0\0\x08\0"] {
        let error = replication(server(said.to_vec(), false).await, "").await.err().unwrap();
        assert!(matches!(error, WireError::Timeout(limit) if limit == Duration::from_secs(2)), "{error:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn before_login_no_long_message_is_waited_for() {
    for length in [LOGIN_MESSAGE_BYTES_MAX + 1, 0x7FFF_FFFF] {
        let mut announcement = vec![b'N'];
        announcement.extend(u32::try_from(length).unwrap().to_be_bytes());
        let address = server(announcement, false).await;
        for error in [replication(address, "").await.err().unwrap(), sql(address).await.err().unwrap()] {
            assert!(matches!(error, WireError::Protocol(_)), "{error:?}");
            assert!(error.to_string().contains(&length.to_string()), "{error}");
        }
    }
}

#[tokio::test]
async fn an_announced_length_takes_no_memory_by_itself() {
    let mut answer = READY.to_vec();
    answer.extend([b'd', 0x7F, 0xFF, 0xFF, 0xFF]);
    let error = self::answer(replication(server(answer, false).await, "").await.unwrap()).await;
    assert!(matches!(error, WireError::Protocol(_)), "{error:?}");

    // tokio-postgres would wait for all of it; the client's socket ends the connection.
    let mut answer = READY.to_vec();
    answer.extend(message(b'S', b"a\0b\0"));
    answer.extend([b'D', 0x7F, 0xFF, 0xFF, 0xFF]);
    match sql(server(answer, false).await).await {
        // The answer arrives at once or in pieces.
        Err(error) => {
            assert!(error.to_string().contains("2147483647 bytes where at most 1073741824"), "{error}")
        }
        Ok(client) => {
            let asked = tokio::time::timeout(Duration::from_secs(60), client.batch_execute("SELECT 1"));
            assert!(asked.await.expect("an answer").unwrap_err().is_closed());
        }
    }
}

#[tokio::test]
async fn an_error_of_megabytes_is_cut_to_what_can_be_shown() {
    // The cut falls inside a character.
    let words = "x".repeat(1999) + &"é".repeat(1 << 20);
    let refusal = [b"SERROR\0CXX000\0M", words.as_bytes(), b"\0\0"].concat();
    for kind in ["replication", "sql"] {
        let mut answer = READY.to_vec();
        answer.extend(message(b'E', &refusal));
        answer.extend(message(b'Z', b"I"));
        let address = server(answer, false).await;
        let error = match kind {
            "sql" => {
                WireError::from(sql(address).await.unwrap().batch_execute("SELECT 1").await.unwrap_err())
            }
            _ => self::answer(replication(address, "").await.unwrap()).await,
        };
        let shown = error.to_string();
        assert!(shown.ends_with("xxx... (2099151 bytes)") && shown.len() < 2100, "{kind}: {shown}");
    }
}

/// A server that asks for the password and returns what the client sends.
async fn eavesdropper(mut stream: TcpStream, method: u8) -> Vec<u8> {
    let _ = stream.read(&mut [0; 4096]).await.unwrap();
    // Sent in two pieces, as TCP may deliver it.
    let salt: &[u8] = if method == MD5 { b"salt" } else { b"" };
    let request = message(b'R', &[&[0, 0, 0, method], salt].concat());
    stream.write_all(&request[..4]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.write_all(&request[4..]).await.unwrap();
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await;
    heard
}

const CLEAR_TEXT: u8 = 3;
const MD5: u8 = 5;

/// A server that accepts every login and answers the first query with endless rows.
async fn endless(row: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let many = row.repeat(1 + (64 << 10) / row.len());
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(READY).await;
                let _ = stream.read(&mut [0; 4096]).await;
                let column = [&[0, 1][..], b"c\0", &[0; 18]].concat();
                let _ = stream.write_all(&message(b'T', &column)).await;
                while stream.write_all(&many).await.is_ok() {}
            });
        }
    });
    address
}

#[tokio::test]
async fn an_answer_without_end_is_given_up() {
    let text = [&[0, 1, 0, 0, 4, 0][..], &[b'x'; 1024]].concat();
    let address = endless(message(b'D', &text)).await;
    let client = sql(address).await.unwrap();
    let by_sql = simple_answer(&client, "SELECT 1").await.unwrap_err();
    let url = format!("postgresql://u:pw@127.0.0.1:{}/db?sslmode=disable", address.port());
    let endpoint = Endpoint::parse(&url).unwrap();
    let mut connection =
        ReplicationConnection::connect(&endpoint, "test", Duration::from_secs(60)).await.unwrap();
    let Err(ReplicationError::Command { cause: by_replication, .. }) = connection.query("SELECT 1").await
    else {
        panic!("an endless answer was accepted");
    };
    for error in [by_sql, by_replication] {
        assert!(error.to_string().contains("more than 16 MiB"), "{error}");
    }
}

#[tokio::test]
async fn a_password_is_given_to_nobody_over_plain_tcp_neither_in_clear_text_nor_as_md5() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for (kind, method) in
        [("replication", CLEAR_TEXT), ("sql", CLEAR_TEXT), ("replication", MD5), ("sql", MD5)]
    {
        let client = async {
            match kind {
                "sql" => sql(address).await.map(drop),
                _ => replication(address, "").await.map(drop),
            }
        };
        let (error, heard) =
            tokio::join!(client, async { eavesdropper(listener.accept().await.unwrap().0, method).await });
        let error = error.unwrap_err();
        let refused = match error {
            WireError::Authentication(AuthenticationError::ClearTextRefused { encrypted: false }) => {
                CLEAR_TEXT
            }
            WireError::Authentication(AuthenticationError::Md5Refused { encrypted: false }) => MD5,
            _ => panic!("{kind}: {error:?}"),
        };
        assert_eq!(refused, method, "{kind}");
        let text = std::error::Error::source(&error).unwrap().to_string();
        assert!(text.contains("sslmode=verify-full"), "{text}");
        assert_eq!(heard, b"", "{kind}, {method}: something was sent");
    }
}

#[tokio::test]
async fn a_method_that_require_auth_names_is_used() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let mut stream = listener.accept().await.unwrap().0;
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        stream.write_all(&message(b'R', b"\0\0\0\x05salt")).await.unwrap();
        let mut heard = [0; 64];
        let length = stream.read(&mut heard).await.unwrap();
        heard[..length].to_vec()
    };
    let (_, heard) = tokio::join!(replication(address, "&require_auth=md5"), server);
    assert!(heard.starts_with(b"p") && heard.windows(3).any(|bytes| bytes == b"md5"), "{heard:?}");
}

#[tokio::test]
async fn methods_that_we_do_not_speak_are_named() {
    let sasl = message(b'R', b"\0\0\0\x0AOAUTHBEARER\0\0");
    for (request, name) in [
        (message(b'R', b"\0\0\0\x02"), "Kerberos V5"),
        (message(b'R', b"\0\0\0\x07"), "GSSAPI"),
        (message(b'R', b"\0\0\0\x09"), "SSPI"),
        (message(b'R', b"\0\0\0\x63"), "unknown (99)"),
        (sasl, "SASL"),
    ] {
        let error = replication(server(request, false).await, "").await.err().unwrap();
        let WireError::Authentication(AuthenticationError::Unsupported(found)) = &error else {
            panic!("{name}: {error:?}")
        };
        assert!(found.contains(name), "{found}");
    }
}

#[tokio::test]
async fn a_pooler_in_place_of_the_server_is_recognised_by_its_words() {
    for words in [
        "unsupported startup parameter: replication",
        "Unsupported startup parameter: options",
        "unsupported startup parameter in options: intervalstyle",
        "Feature not supported: RDS Proxy currently doesn't support command-line options.",
    ] {
        let refusal = [b"SFATAL\0C08P01\0M", words.as_bytes(), b"\0\0"].concat();
        let address = server(message(b'E', &refusal), false).await;
        for error in [replication(address, "").await.err().unwrap(), sql(address).await.err().unwrap()] {
            let text = error.to_string();
            assert!(text.contains(words) && text.contains("connect to PostgreSQL directly"), "{text}");
        }
    }
    // A pooler that forwards the login and drops its settings.
    let mut answer = message(b'R', &[0; 4]);
    answer.extend(message(b'S', b"TimeZone\0America/New_York\0"));
    answer.extend(message(b'Z', b"I"));
    let error = sql(server(answer, false).await).await.err().unwrap().to_string();
    assert!(
        error.contains("America/New_York") && error.contains("connect to PostgreSQL directly"),
        "{error}"
    );
    // A pooler that forwards the settings it knows and drops search_path.
    let mut answer = message(b'R', &[0; 4]);
    answer.extend(message(b'S', b"TimeZone\0UTC\0"));
    answer.extend(message(b'S', b"search_path\0\"$user\", public\0"));
    answer.extend(message(b'Z', b"I"));
    let address = server(answer, false).await;
    for error in [replication(address, "").await.err().unwrap(), sql(address).await.err().unwrap()] {
        let error = error.to_string();
        assert!(error.contains("search_path \"$user\", public instead of pg_catalog,pg_temp"), "{error}");
    }
}

#[tokio::test]
async fn a_login_that_require_auth_does_not_list_is_refused_at_the_first_word() {
    for (code, allowed, named) in
        [(0, "scram-sha-256", "none"), (5, "!md5", "md5"), (3, "md5,scram-sha-256", "password")]
    {
        let address = server(message(b'R', &[0, 0, 0, code]), false).await;
        let option = format!("&require_auth={allowed}");
        let text = format!("postgresql://u:pw@127.0.0.1:{}/db?sslmode=disable{option}", address.port());
        let by_sql = Endpoint::parse(&text).unwrap().connect_sql("test").await.unwrap_err().cause;
        for error in [replication(address, &option).await.err().unwrap(), by_sql] {
            let refused = AuthenticationError::MethodNotAllowed(named).to_string();
            assert!(
                matches!(&error, WireError::Authentication(error) if error.to_string() == refused),
                "{error:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_server_that_skips_its_half_of_scram_is_not_believed() {
    let mut answer = message(b'R', b"\0\0\0\x0ASCRAM-SHA-256\0\0");
    answer.extend(message(b'R', &[0; 4]));
    let error = replication(server(answer, false).await, "").await.err().unwrap();
    assert!(matches!(error, WireError::Protocol(_)), "{error:?}");
}

#[tokio::test]
async fn channel_binding_that_is_required_is_not_given_up() {
    for answer in [READY.to_vec(), message(b'R', b"\0\0\0\x0ASCRAM-SHA-256\0\0")] {
        let error = replication(server(answer, false).await, "&channel_binding=require").await.err().unwrap();
        assert!(
            matches!(error, WireError::Authentication(AuthenticationError::ChannelBindingMissing(_))),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn answers_to_ssl_request() {
    for (answer, expected) in [
        (&b"N"[..], "does not offer TLS"),
        (b"H", "0x48"),
        (b"E", "with an error"),
        // Bytes after the 'S' precede the handshake, so an attacker sent them.
        (b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I", "TLS failed"),
    ] {
        let address = server(answer.to_vec(), false).await;
        let text =
            format!("postgresql://u:pw@127.0.0.1:{}/db?sslmode=require&connect_timeout=2", address.port());
        let error = Endpoint::parse(&text).unwrap().connect_sql("test").await.unwrap_err().cause;
        assert!(error.to_string().contains(expected), "{error:?}");
    }
}
