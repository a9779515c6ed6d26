//! Probes: ask the broker what it would refuse, and leave nothing behind: no message, queue, exchange or binding.
//!
//! Each probe is an attempt that cannot succeed or is undone. RabbitMQ checks the rights to a resource before
//! anything else about it (`rabbit_channel.erl` of 3.10 to 4.3).

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame},
    protocol::{
        AMQPClass,
        basic::{self, AMQPProperties},
        exchange, queue, tx,
    },
    types::{AMQPValue, FieldTable},
};

use crate::{
    connection::{CallError, ChannelId, Connection, open_channel},
    error::{BrokerError, DeclareError, Loss},
    frame::FRAME_OVERHEAD_BYTES,
    refusal::{Reason, Refusal},
    short_string::short,
    topology::{Declaration, Destination},
};

/// Channel of the probes. A refusal closes it, so each probe opens it anew.
const CHANNEL: ChannelId = 1;
/// Content class `basic`.
const BASIC: u16 = 60;
/// Largest body frame that a probe sends, whatever the connection's limit.
const BODY_FRAME_BYTES_MAX: usize = 128 << 10;
/// Header that stops an exchange of the plugin `rabbitmq_recent_history_exchange` from keeping a copy.
const KEEP_NOT: &str = "x-recent-history-no-store";
/// Routing key and binding argument that nobody else uses.
pub const UNUSED_KEY: &str = "amqp-publisher.probe.4d8e27c1a0b35f96";

/// Probes whether a message of `bytes` may be published. RabbitMQ checks its size, the right to write, that the
/// exchange exists and is not internal, and the right to the routing key.
///
/// The message is published in a transaction that is rolled back (`tx.rollback`). Queues get the messages of a
/// transaction at its commit.
///
/// # Errors
///
/// [`BrokerError`] when the broker would refuse it, or the connection is lost.
pub async fn publish(
    connection: &mut Connection,
    exchange: &str,
    key: &str,
    bytes: usize,
) -> Result<(), CallError> {
    connection.call(CHANNEL, open_channel()).await?;
    connection.call(CHANNEL, AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {}))).await?;
    put_message(connection, exchange, key, bytes).map_err(CallError::Lost)?;
    connection.call(CHANNEL, AMQPClass::Tx(tx::AMQPMethod::Rollback(tx::Rollback {}))).await?;
    close(connection).await
}

fn put_message(connection: &mut Connection, exchange: &str, key: &str, bytes: usize) -> Result<(), Loss> {
    let (exchange, routing_key) = (short(exchange).map_err(Loss::Broken)?, short(key).map_err(Loss::Broken)?);
    let publish = basic::Publish { exchange, routing_key, mandatory: false, immediate: false };
    connection.ask(CHANNEL, &AMQPClass::Basic(basic::AMQPMethod::Publish(publish)))?;
    let mut headers = FieldTable::default();
    headers.insert(KEEP_NOT.into(), AMQPValue::Boolean(true));
    let properties = AMQPProperties::default().with_headers(headers).with_delivery_mode(1);
    let header = AMQPContentHeader { class_id: BASIC, body_size: bytes as u64, properties };
    connection.put(&AMQPFrame::Header(CHANNEL, header))?;
    let frame = connection.frame_bytes_max().saturating_sub(FRAME_OVERHEAD_BYTES);
    let frame = frame.clamp(1, BODY_FRAME_BYTES_MAX);
    let mut left = bytes;
    while left > 0 {
        let part = left.min(frame);
        connection.put(&AMQPFrame::Body(CHANNEL, vec![b' '; part]))?;
        left -= part;
    }
    Ok(())
}

/// Probes whether a missing exchange or queue could be declared.
///
/// One argument is invalid. RabbitMQ checks arguments after the rights and, up to 3.13, after the virtual host's
/// limit of queues (later versions check limits last), but before it creates anything.
///
/// # Errors
///
/// [`BrokerError`] when the broker would refuse it, or the connection is lost.
pub async fn declare(connection: &mut Connection, declaration: &Declaration) -> Result<(), BrokerError> {
    let lost = |error| Loss::Broken(error).at(connection.at());
    let Some(mut method) = declaration.method(true).map_err(lost)? else { return Ok(()) };
    let (argument, arguments, invalid) = match &mut method {
        AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare)) => {
            ("alternate-exchange", &mut declare.arguments, AMQPValue::Boolean(false))
        }
        AMQPClass::Queue(queue::AMQPMethod::Declare(declare)) => {
            ("x-message-ttl", &mut declare.arguments, AMQPValue::LongInt(-1))
        }
        _ => return Ok(()),
    };
    arguments.insert(argument.into(), invalid);
    connection.open_channel(CHANNEL).await?;
    match connection.call(CHANNEL, method).await {
        Ok(_) => connection.close_channel(CHANNEL).await,
        Err(CallError::Refused(refusal)) if is_of(&refusal, argument) => Ok(()),
        Err(error) => Err(declaration.failure(error, connection.at())),
    }
}

/// Tells whether the broker refuses the invalid argument, and nothing else.
fn is_of(refusal: &Refusal, argument: &str) -> bool {
    // Another client may have created it meanwhile.
    let expected = [Reason::InvalidArgument, Reason::Different];
    expected.contains(&refusal.reason()) && refusal.text.contains(&format!("'{argument}'"))
}

/// Probes whether a binding could be made, by unbinding it with an argument that no real binding has. RabbitMQ
/// requires the same rights as for the binding, including that to the key, and checks them first.
///
/// # Errors
///
/// [`BrokerError`] when the broker would refuse it, or the connection is lost.
pub async fn bind(
    connection: &mut Connection,
    destination: &Destination,
    source: &str,
    key: &str,
) -> Result<(), CallError> {
    let mut arguments = FieldTable::default();
    arguments.insert(UNUSED_KEY.into(), AMQPValue::Boolean(true));
    match unbind_with(connection, destination, source, key, arguments).await {
        // The exchange or queue is not declared yet.
        Err(CallError::Refused(refusal)) if refusal.reason() == Reason::Missing => Ok(()),
        done => done,
    }
}

/// Removes a binding. A missing binding is no error to RabbitMQ.
///
/// # Errors
///
/// [`BrokerError`] when the broker refuses, or the connection is lost.
pub async fn unbind(
    connection: &mut Connection,
    destination: &Destination,
    source: &str,
    key: &str,
) -> Result<(), CallError> {
    unbind_with(connection, destination, source, key, FieldTable::default()).await
}

async fn unbind_with(
    connection: &mut Connection,
    destination: &Destination,
    source: &str,
    key: &str,
    arguments: FieldTable,
) -> Result<(), CallError> {
    let short = |name: &str| short(name).map_err(|error| CallError::Lost(Loss::Broken(error)));
    let (source, routing_key) = (short(source)?, short(key)?);
    let method = match destination {
        Destination::Queue(name) => AMQPClass::Queue(queue::AMQPMethod::Unbind(queue::Unbind {
            queue: short(name)?,
            exchange: source,
            routing_key,
            arguments,
        })),
        Destination::Exchange(name) => AMQPClass::Exchange(exchange::AMQPMethod::Unbind(exchange::Unbind {
            destination: short(name)?,
            source,
            routing_key,
            nowait: false,
            arguments,
        })),
    };
    connection.call(CHANNEL, open_channel()).await?;
    connection.call(CHANNEL, method).await?;
    close(connection).await
}

async fn close(connection: &mut Connection) -> Result<(), CallError> {
    connection.close_channel(CHANNEL).await.map_err(|error| match error {
        BrokerError::ChannelClosed { refusal, .. } => CallError::Refused(refusal),
        error => CallError::Lost(Loss::Broken(std::io::Error::other(error))),
    })
}

/// Returns the error of a refused `object`, or of a lost connection.
pub fn failure(object: String, error: CallError, connection: &Connection) -> BrokerError {
    let at = connection.at().clone();
    match error {
        CallError::Refused(refusal) => BrokerError::Declare { at, error: DeclareError::new(object, refusal) },
        CallError::Lost(loss) => loss.at(&at),
    }
}
