//! Finds out what the broker would refuse, and leaves nothing behind: no message, no queue, no exchange, no binding.
//!
//! Each question is an attempt that cannot succeed, or that is taken back, and whose checks come first: RabbitMQ checks the rights to
//! a resource before anything else about it (`rabbit_channel.erl` of 3.10 to 4.3).

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

/// A refusal closes the channel, so it is opened anew for each question.
const CHANNEL: ChannelId = 1;
/// Content class `basic`.
const BASIC: u16 = 60;
/// A body is sent in frames of at most so many bytes, however large a frame may be.
const BODY_FRAME_BYTES_MAX: usize = 128 << 10;
/// Of exchanges of the plugin `rabbitmq_recent_history_exchange`, which would keep a copy.
const KEEP_NOT: &str = "x-recent-history-no-store";
/// A key that nobody publishes with, and an argument that nobody binds with.
pub const UNUSED_KEY: &str = "amqp-publisher.probe.4d8e27c1a0b35f96";

/// Asks whether a message of `bytes` may be published, which is what RabbitMQ checks before it stores one: its size, the right to
/// write, that the exchange is there and not internal, the right to the routing key.
///
/// The message is published in a transaction and taken back (`tx.rollback`): queues get the messages of a transaction at its commit.
///
/// # Errors
///
/// The broker would refuse it, or the connection is lost.
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

/// Asks whether an exchange or queue that is not there could be declared.
///
/// One argument is made invalid. RabbitMQ looks at arguments after the rights, and after a virtual host's limit of queues (up to
/// 3.13; later versions check limits last), but before it creates anything.
///
/// # Errors
///
/// The broker would refuse it, or the connection is lost.
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

/// Tells whether it is the invalid argument that the broker refuses.
fn is_of(refusal: &Refusal, argument: &str) -> bool {
    // Somebody else may have created it by now.
    let expected = [Reason::InvalidArgument, Reason::Different];
    expected.contains(&refusal.reason()) && refusal.text.contains(&format!("'{argument}'"))
}

/// Asks whether a binding could be made: nothing is unbound that is of use, for nobody binds with that argument, and bindings with
/// other arguments are other bindings. RabbitMQ asks for the same rights as to bind, that to the key included, and for them first.
///
/// # Errors
///
/// The broker would refuse it, or the connection is lost.
pub async fn bind(
    connection: &mut Connection,
    destination: &Destination,
    source: &str,
    key: &str,
) -> Result<(), CallError> {
    let mut arguments = FieldTable::default();
    arguments.insert(UNUSED_KEY.into(), AMQPValue::Boolean(true));
    match unbind_with(connection, destination, source, key, arguments).await {
        // Exchange or queue is still to be declared.
        Err(CallError::Refused(refusal)) if refusal.reason() == Reason::Missing => Ok(()),
        done => done,
    }
}

/// Removes a binding; one that is not there is no error to RabbitMQ.
///
/// # Errors
///
/// The broker refuses, or the connection is lost.
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
        BrokerError::ChannelClosed { code, text, .. } => CallError::Refused(Refusal { code, text }),
        error => CallError::Lost(Loss::Broken(std::io::Error::other(error))),
    })
}

/// The refusal of `object`, or the loss of the connection, as an error.
pub fn failure(object: String, error: CallError, connection: &Connection) -> BrokerError {
    let at = connection.at().clone();
    match error {
        CallError::Refused(refusal) => BrokerError::Declare { at, error: DeclareError::new(object, refusal) },
        CallError::Lost(loss) => loss.at(&at),
    }
}
