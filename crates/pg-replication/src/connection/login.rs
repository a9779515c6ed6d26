//! Login: startup message and authentication (manual, "Start-up" and "SASL Authentication").
//!
//! Decides which credentials may be sent over which connection. Does not know how the socket was opened or what the
//! session is for.

use fallible_iterator::FallibleIterator;
use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256},
    },
    message::{
        backend::{AUTHENTICATION_TAG, AuthenticationSaslBody, Message, READY_FOR_QUERY_TAG},
        frontend,
    },
};
use tokio_postgres::config;

use super::{
    login_methods::LoginMethods,
    socket::Socket,
    wire::{Frame, Wire},
    wire_error::{AuthenticationError, WireError},
};

/// The last authentication code that postgres-protocol knows: AuthenticationSASLFinal.
const AUTHENTICATION_CODE_MAX: i32 = 12;

/// User, password, and the accepted login methods.
#[derive(Clone, Copy)]
pub(crate) struct Credentials<'a> {
    pub(crate) user: &'a str,
    pub(crate) password: Option<&'a [u8]>,
    pub(crate) channel_binding: config::ChannelBinding,
    pub(crate) methods: LoginMethods,
}

/// Logs in. `parameters` are the startup message's, without `user`.
pub(crate) async fn login(
    socket: Socket,
    credentials: Credentials<'_>,
    parameters: &[(&str, &str)],
) -> Result<Wire, WireError> {
    let mut wire = Wire::new(socket);
    let all = [("user", credentials.user)].into_iter().chain(parameters.iter().copied());
    frontend::startup_message(all, wire.output())
        .map_err(|error| WireError::protocol(format!("the startup message cannot be written: {error}")))?;
    authenticate(&mut wire, credentials).await?;
    loop {
        let frame = wire.next_frame().await?;
        if frame.tag() == READY_FOR_QUERY_TAG {
            wire.logged_in();
            return Ok(wire);
        }
        let refusal = frame.unexpected("logging in");
        // The key could cancel a running command. This client closes the connection instead.
        let Message::BackendKeyData(_) = frame.parse()? else { return Err(refusal) };
    }
}

async fn authenticate(wire: &mut Wire, credentials: Credentials<'_>) -> Result<(), WireError> {
    let password = || credentials.password.ok_or(AuthenticationError::PasswordMissing);
    let without_binding = |what| match credentials.channel_binding {
        config::ChannelBinding::Require => Err(AuthenticationError::ChannelBindingMissing(what)),
        _ => Ok(()),
    };
    match first_request(wire, credentials.methods).await? {
        Message::AuthenticationOk => {
            return Ok(without_binding("the server asks for no authentication")?);
        }
        Message::AuthenticationCleartextPassword => {
            without_binding("the server asks for a clear text password")?;
            send_password(wire, password()?)?;
        }
        Message::AuthenticationMd5Password(body) => {
            without_binding("the server asks for an MD5 password")?;
            let hash = md5_hash(credentials.user.as_bytes(), password()?, body.salt());
            send_password(wire, hash.as_bytes())?;
        }
        Message::AuthenticationSasl(body) => {
            scram(wire, body, password()?, credentials.channel_binding).await?;
        }
        other => return Err(unsupported(&other)),
    }
    match request(wire).await? {
        Message::AuthenticationOk => Ok(()),
        other => Err(unsupported(&other)),
    }
}

/// Reads the first authentication message and refuses a method that `methods` exclude.
async fn first_request(wire: &mut Wire, methods: LoginMethods) -> Result<Message, WireError> {
    let frame = wire.next_frame().await?;
    if frame.tag() == AUTHENTICATION_TAG
        && let Some(code) = code(&frame)
    {
        methods.check(code, wire.socket().peer())?;
    }
    read(frame)
}

/// Reads the next authentication message.
async fn request(wire: &mut Wire) -> Result<Message, WireError> {
    read(wire.next_frame().await?)
}

fn read(frame: Frame) -> Result<Message, WireError> {
    if frame.tag() != AUTHENTICATION_TAG {
        return Err(frame.unexpected("authenticating: is this a PostgreSQL port?"));
    }
    match code(&frame) {
        Some(code) if !(0..=AUTHENTICATION_CODE_MAX).contains(&code) => {
            Err(AuthenticationError::Unsupported(format!("unknown ({code})")).into())
        }
        _ => frame.parse(),
    }
}

fn code(frame: &Frame) -> Option<i32> {
    frame.payload().first_chunk().map(|bytes| i32::from_be_bytes(*bytes))
}

fn unsupported(message: &Message) -> WireError {
    let method = match message {
        Message::AuthenticationKerberosV5 => "Kerberos V5",
        Message::AuthenticationScmCredential => "SCM credential",
        Message::AuthenticationGss => "GSSAPI",
        Message::AuthenticationSspi => "SSPI",
        _ => return WireError::protocol("an authentication message out of place"),
    };
    AuthenticationError::Unsupported(method.to_owned()).into()
}

fn send_password(wire: &mut Wire, password: &[u8]) -> Result<(), AuthenticationError> {
    frontend::password_message(password, wire.output()).map_err(AuthenticationError::Password)
}

async fn scram(
    wire: &mut Wire,
    body: AuthenticationSaslBody,
    password: &[u8],
    wanted: config::ChannelBinding,
) -> Result<(), WireError> {
    let (mut plain, mut plus) = (false, false);
    let mut mechanisms = body.mechanisms();
    while let Some(mechanism) = mechanisms.next().map_err(|error| WireError::protocol(error.to_string()))? {
        plain |= mechanism == SCRAM_SHA_256;
        plus |= mechanism == SCRAM_SHA_256_PLUS;
    }
    if !plain && !plus {
        return Err(AuthenticationError::Unsupported("SASL other than SCRAM-SHA-256".to_owned()).into());
    }
    let end_point = match wanted {
        config::ChannelBinding::Disable => None,
        _ => wire.socket().server_end_point(),
    };
    let (binding, mechanism) = match (end_point, plus) {
        (Some(hash), true) => (ChannelBinding::tls_server_end_point(hash), SCRAM_SHA_256_PLUS),
        // The flag "client supports channel binding, server does not": a server that did offer SCRAM-SHA-256-PLUS
        // then aborts, which exposes an attacker who removed it from the list (RFC 5802, section 6).
        (Some(_), false) => (ChannelBinding::unrequested(), SCRAM_SHA_256),
        (None, _) => (ChannelBinding::unsupported(), SCRAM_SHA_256),
    };
    if mechanism == SCRAM_SHA_256 {
        if wanted == config::ChannelBinding::Require {
            let what = "the server, its certificate or the missing TLS does not allow it";
            return Err(AuthenticationError::ChannelBindingMissing(what).into());
        }
        if !plain {
            let what = "only SCRAM-SHA-256-PLUS, which is impossible on this connection, so SASL";
            return Err(AuthenticationError::Unsupported(what.to_owned()).into());
        }
    }

    let mut scram = ScramSha256::new(password, binding);
    frontend::sasl_initial_response(mechanism, scram.message(), wire.output())
        .map_err(AuthenticationError::Password)?;
    let Message::AuthenticationSaslContinue(body) = request(wire).await? else {
        return Err(WireError::protocol("no SASLContinue in the SCRAM exchange"));
    };
    scram.update(body.data()).map_err(AuthenticationError::Scram)?;
    frontend::sasl_response(scram.message(), wire.output()).map_err(AuthenticationError::Password)?;
    // SASLFinal proves that the server knows the password. AuthenticationOk alone does not.
    let Message::AuthenticationSaslFinal(body) = request(wire).await? else {
        return Err(WireError::protocol("no SASLFinal in the SCRAM exchange"));
    };
    Ok(scram.finish(body.data()).map_err(AuthenticationError::Scram)?)
}
