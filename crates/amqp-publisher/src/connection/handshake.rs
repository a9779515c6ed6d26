//! Opening of a connection on a byte stream: versions, login, limits, virtual host (AMQP 0-9-1 specification, 2.2.4).

use std::{future::poll_fn, time::Duration};

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
    endpoint::{CHANNELS, Endpoint},
    link::{Frame, Link},
    options::Client,
};
use crate::{
    error::{BrokerError, Loss},
    refusal::{Reason, Refusal, reply},
    short_string::short,
};

/// Extensions of RabbitMQ that this client supports (<https://www.rabbitmq.com/docs/connections#capabilities>). With
/// `consumer_cancel_notify` the broker reports the deletion of a queue that is consumed, such as a fence. With
/// `authentication_failure_close` the broker reports a refused login instead of closing the socket.
const CAPABILITIES: [&str; 6] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "authentication_failure_close",
];

/// Logs in and opens the virtual host. RabbitMQ's management and log show `name`.
///
/// # Errors
///
/// [`BrokerError`], also when the broker or the URL allows fewer channels than [`CHANNELS`]: opening one more would
/// end the connection.
pub(crate) async fn open(
    link: &mut Link,
    at: &Endpoint,
    client: Client,
    name: &str,
) -> Result<(), BrokerError> {
    let channel_max = converse(link, at, client, name).await.map_err(|loss| {
        let at = at.clone();
        match loss {
            Loss::Broken(error) => BrokerError::Handshake { at, source: error.into() },
            Loss::Closed(refusal) if refusal.code == reply::ACCESS_REFUSED => {
                BrokerError::LoginRefused { at, refusal }
            }
            Loss::Closed(refusal) => match refusal.reason() {
                Reason::NoVhost | Reason::VhostAccess => BrokerError::VhostRefused { at, refusal },
                _ => BrokerError::ConnectionRefused { at, refusal },
            },
        }
    })?;
    match channel_max {
        1..CHANNELS => Err(BrokerError::TooFewChannels { at: at.clone(), channel_max, needed: CHANNELS }),
        _ => Ok(()),
    }
}

/// Runs the handshake and returns the agreed number of channels; 0 is no limit.
async fn converse(link: &mut Link, at: &Endpoint, client: Client, name: &str) -> Result<u16, Loss> {
    link.put(&AMQPFrame::ProtocolHeader(ProtocolVersion::amqp_0_9_1())).map_err(Loss::Broken)?;
    let AMQPMethod::Start(_) = answer(link).await? else { return Err(unexpected("connection.start")) };

    let uri = at.uri();
    let mechanism = uri.query.auth_mechanism.unwrap_or_default();
    put(
        link,
        AMQPMethod::StartOk(StartOk {
            client_properties: client_properties(client, name),
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
    put(link, AMQPMethod::Open(Open { virtual_host: short(&uri.vhost).map_err(Loss::Broken)? }))?;
    match answer(link).await? {
        AMQPMethod::OpenOk(_) => Ok(agreed.channel_max),
        _ => Err(unexpected("connection.open-ok")),
    }
}

/// Returns the lower of both sides' limits; 0 is no limit, and for the heartbeat none.
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

fn client_properties(client: Client, name: &str) -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut capabilities = FieldTable::default();
    for capability in CAPABILITIES {
        capabilities.insert(capability.into(), AMQPValue::Boolean(true));
    }
    let mut properties = FieldTable::default();
    properties.insert("connection_name".into(), text(name));
    properties.insert("product".into(), text(client.product));
    properties.insert("version".into(), text(client.version));
    properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    properties
}

fn put(link: &mut Link, method: AMQPMethod) -> Result<(), Loss> {
    link.put(&AMQPFrame::Method(0, AMQPClass::Connection(method))).map_err(Loss::Broken)
}

async fn answer(link: &mut Link) -> Result<AMQPMethod, Loss> {
    match poll_fn(|cx| link.poll_frame(cx)).await.map_err(Loss::Broken)? {
        Frame::Method(0, AMQPClass::Connection(AMQPMethod::Close(close))) => {
            put(link, AMQPMethod::CloseOk(CloseOk {}))?;
            // The broker logs a client that leaves without this answer. If it cannot be written, nothing is lost.
            let _ = poll_fn(|cx| link.poll_flush(cx)).await;
            Err(Loss::Closed(Refusal::new(close.reply_code, close.reply_text)))
        }
        Frame::Method(0, AMQPClass::Connection(method)) => Ok(method),
        _ => Err(unexpected("a method of the connection")),
    }
}

fn unexpected(wanted: &str) -> Loss {
    Loss::violation(format!("something else where {wanted} must come"))
}
