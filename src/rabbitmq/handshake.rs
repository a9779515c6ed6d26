//! From a byte stream to an open connection: versions, login, limits, vhost (AMQP 0-9-1 specification, 2.2.4).

use std::{future::poll_fn, io, time::Duration};

use amq_protocol::{
    auth::Credentials,
    frame::{AMQPFrame, ProtocolVersion},
    protocol::{
        AMQPClass,
        connection::{AMQPMethod, CloseOk, Open, StartOk, Tune, TuneOk},
    },
    types::{AMQPValue, FieldTable},
};

use super::{
    endpoint::Endpoint,
    error::{BrokerError, reply},
    link::Link,
    topology::short,
};

/// What this client understands of RabbitMQ's extensions (<https://www.rabbitmq.com/docs/connections#capabilities>).
/// `authentication_failure_close`: a refused login is told, and not just a socket that is closed.
const CAPABILITIES: [&str; 5] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "connection.blocked",
    "authentication_failure_close",
];

/// Logs in and opens the vhost. `name` is shown by RabbitMQ's management and in its log.
pub(super) async fn open(link: &mut Link, at: &Endpoint, name: &str) -> Result<(), BrokerError> {
    let broken = |error: io::Error| BrokerError::Handshake { at: at.clone(), source: error.into() };
    converse(link, at, name).await.map_err(|failure| match failure {
        Failure::Broken(error) => broken(error),
        Failure::Closed { code, text } => {
            let at = at.clone();
            match code {
                reply::ACCESS_REFUSED => BrokerError::LoginRefused { at, text },
                reply::NOT_ALLOWED => BrokerError::VhostRefused { at, text },
                code => BrokerError::ConnectionClosed { at, code, text },
            }
        }
    })
}

enum Failure {
    Broken(io::Error),
    Closed { code: u16, text: String },
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

async fn converse(link: &mut Link, at: &Endpoint, name: &str) -> Result<(), Failure> {
    link.put(&AMQPFrame::ProtocolHeader(ProtocolVersion::amqp_0_9_1()))?;
    let AMQPMethod::Start(_) = answer(link).await? else { return Err(unexpected("connection.start")) };

    let uri = at.uri();
    let mechanism = uri.query.auth_mechanism.unwrap_or_default();
    put(
        link,
        AMQPMethod::StartOk(StartOk {
            client_properties: client_properties(name),
            mechanism: mechanism.name().into(),
            response: Credentials::from(uri.authority.userinfo.clone()).sasl_auth_string(mechanism),
            locale: "en_US".into(),
        }),
    )?;
    let AMQPMethod::Tune(offered) = answer(link).await? else { return Err(unexpected("connection.tune")) };

    let agreed = agree(&offered, at);
    put(link, AMQPMethod::TuneOk(agreed.clone()))?;
    let heartbeat = Duration::from_secs(agreed.heartbeat.into());
    let frame_max = if agreed.frame_max == 0 { u32::MAX } else { agreed.frame_max };
    link.tuned(usize::try_from(frame_max).unwrap_or(usize::MAX), heartbeat);
    put(link, AMQPMethod::Open(Open { virtual_host: short(&uri.vhost).map_err(io::Error::other)? }))?;
    match answer(link).await? {
        AMQPMethod::OpenOk(_) => Ok(()),
        _ => Err(unexpected("connection.open-ok")),
    }
}

/// The lower of what the two sides want; 0 is no limit, and of a heartbeat none at all.
fn agree(offered: &Tune, at: &Endpoint) -> TuneOk {
    fn lower<N: Ord + Default>(theirs: N, ours: N) -> N {
        let none = N::default();
        if theirs == none || ours == none { theirs.max(ours) } else { theirs.min(ours) }
    }
    let query = &at.uri().query;
    TuneOk {
        channel_max: lower(offered.channel_max, query.channel_max.unwrap_or_default()),
        frame_max: lower(offered.frame_max, query.frame_max.unwrap_or_default()),
        heartbeat: lower(offered.heartbeat, query.heartbeat.unwrap_or_default()),
    }
}

fn client_properties(name: &str) -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut capabilities = FieldTable::default();
    for capability in CAPABILITIES {
        capabilities.insert(capability.into(), AMQPValue::Boolean(true));
    }
    let mut properties = FieldTable::default();
    properties.insert("connection_name".into(), text(name));
    properties.insert("product".into(), text(env!("CARGO_PKG_NAME")));
    properties.insert("version".into(), text(env!("CARGO_PKG_VERSION")));
    properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    properties
}

fn put(link: &mut Link, method: AMQPMethod) -> io::Result<()> {
    link.put(&AMQPFrame::Method(0, AMQPClass::Connection(method)))
}

async fn answer(link: &mut Link) -> Result<AMQPMethod, Failure> {
    match poll_fn(|cx| link.poll_frame(cx)).await? {
        AMQPFrame::Method(0, AMQPClass::Connection(AMQPMethod::Close(close))) => {
            put(link, AMQPMethod::CloseOk(CloseOk {}))?;
            // The broker logs who leaves without this; that it does not take it any more changes nothing.
            let _ = poll_fn(|cx| link.poll_flush(cx)).await;
            Err(Failure::Closed { code: close.reply_code, text: close.reply_text.to_string() })
        }
        AMQPFrame::Method(0, AMQPClass::Connection(method)) => Ok(method),
        _ => Err(unexpected("a method of the connection")),
    }
}

fn unexpected(wanted: &str) -> Failure {
    let text = format!("something else where {wanted} must come");
    Failure::Broken(io::Error::new(io::ErrorKind::InvalidData, text))
}
