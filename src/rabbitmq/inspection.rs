//! Compares what a configuration needs with what the broker has, finds every problem in one go, and creates nothing
//! unless asked to.

use super::{
    broker::BrokerOptions,
    connection::{ChannelId, Connection},
    error::{BrokerError, DeclareError},
    fence,
    refusal::Reason,
    topology::{CONSISTENT_HASH, DELAYED_MESSAGE, Declaration, Exchange, plan},
};

/// A declare that fails closes its channel, so it is opened anew for each.
const CHANNEL: ChannelId = 1;

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at, for instance `queue 'customer-service.orders'`.
    pub name: String,
    /// What was found.
    pub finding: Result<String, Problem>,
    /// A problem does not keep `run` from working.
    pub optional: bool,
}

/// What is the matter, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What was found.
    pub what: String,
    /// What to do.
    pub cure: String,
}

/// Connects, looks at every exchange and queue that is configured, tries the fences, and closes the connection.
pub async fn inspect(options: &BrokerOptions, connection_name: &str, fences: &[String]) -> Vec<Check> {
    let looked = each(options, connection_name, fences, async |connection, declaration| {
        look(connection, declaration, options.declare).await
    });
    let mut checks = looked.await;
    checks.extend(options.exchanges.iter().filter(|exchange| !exchange.mandatory).map(given_up));
    checks
}

/// What a message that is not `mandatory` goes without.
fn given_up(Exchange { name, kind, .. }: &Exchange) -> Check {
    let why = if kind == DELAYED_MESSAGE { ", as RabbitMQ returns what it delays" } else { "" };
    let finding = format!(
        "published without `mandatory`{why}: a message that no queue is bound for is lost and counts as confirmed; \
         delivery.on_unroutable has no effect"
    );
    Check { name: format!("messages to exchange '{name}'"), finding: Ok(finding), optional: false }
}

/// Connects, declares what is configured whatever `declare` says, and closes the connection.
pub async fn establish(options: &BrokerOptions, connection_name: &str) -> Vec<Check> {
    each(options, connection_name, &[], async |connection, declaration| {
        let was_there = on_fresh_channel(connection, declaration, false).await.is_ok();
        on_fresh_channel(connection, declaration, true).await?;
        Ok(match declaration {
            Declaration::Binding { .. } => "is there",
            _ if was_there => "was there",
            _ => "created",
        }
        .to_owned())
    })
    .await
}

/// Reads the certificates and the key, without a connection.
pub fn validate_tls(options: &BrokerOptions) -> Check {
    let connector = options.tls_config();
    let finding = match connector {
        Ok(Some(_)) => Ok("certificates and key can be used".to_owned()),
        Ok(None) => Ok("no URL asks for it".to_owned()),
        Err(error) => Err(error.into()),
    };
    Check { name: "TLS".to_owned(), finding, optional: false }
}

async fn each(
    options: &BrokerOptions,
    connection_name: &str,
    fences: &[String],
    treat: impl AsyncFn(&mut Connection, &Declaration) -> Result<String, Problem>,
) -> Vec<Check> {
    let name = "RabbitMQ".to_owned();
    let mut connection = match Connection::connect(options, connection_name, 0).await {
        Ok(connection) => connection,
        Err(error) => return vec![Check { name, finding: Err(Problem::from(error)), optional: false }],
    };
    let mut checks =
        vec![Check { name, finding: Ok(format!("connected to {}", connection.at())), optional: false }];
    for declaration in plan(&options.exchanges, &options.subscriptions) {
        let finding = treat(&mut connection, &declaration).await;
        checks.push(Check { name: declaration.object(), finding, optional: false });
    }
    for queue in fences {
        let finding = try_fence(&mut connection, queue).await;
        checks.push(Check { name: format!("queue '{queue}'"), finding, optional: true });
    }
    connection.close().await;
    checks
}

/// A passive declare tells whether it is there, but compares nothing. To declare what is there once more does compare, and
/// changes nothing (AMQP 0-9-1 reference, queue.declare "equivalent"); it needs the right to configure, though, and is
/// of no interest when nothing is to be declared.
async fn look(
    connection: &mut Connection,
    declaration: &Declaration,
    declare: bool,
) -> Result<String, Problem> {
    if let Declaration::Binding { .. } = declaration {
        return Ok(match declare {
            true => "will be declared (AMQP cannot tell whether it is there)".to_owned(),
            false => {
                "not verified: AMQP cannot tell whether it is there; see rabbitmqctl list_bindings".to_owned()
            }
        });
    }
    match on_fresh_channel(connection, declaration, false).await {
        Ok(()) if !declare => return Ok("is there (rabbitmq.declare = false: not compared)".to_owned()),
        Ok(()) => {}
        Err(BrokerError::Declare { error: DeclareError { reason: Reason::Missing, .. }, .. }) if declare => {
            let plugin = match declaration {
                Declaration::Exchange { kind, .. } => plugin(kind),
                _ => None,
            };
            let plugin = plugin.map(|plugin| format!(", with the plugin {plugin}")).unwrap_or_default();
            return Ok(format!("missing; run and setup will declare it{plugin}"));
        }
        Err(error) => return Err(error.into()),
    }
    on_fresh_channel(connection, declaration, true).await?;
    Ok(match &declaration.uncompared()[..] {
        [] => "is there, as configured".to_owned(),
        names => format!("is there, as configured; RabbitMQ does not compare {}", names.join(", ")),
    })
}

/// The plugin that an exchange type comes with.
fn plugin(kind: &str) -> Option<&'static str> {
    match kind {
        CONSISTENT_HASH => Some("rabbitmq_consistent_hash_exchange"),
        DELAYED_MESSAGE => Some("rabbitmq_delayed_message_exchange"),
        _ => None,
    }
}

/// Whether this user may have a fence. The queue goes with the connection.
async fn try_fence(connection: &mut Connection, queue: &str) -> Result<String, Problem> {
    let Err(error) = fence::take(connection, queue).await else {
        return Ok("may be declared: of several instances only one publishes".to_owned());
    };
    let (why, cure) = match &error {
        BrokerError::ChannelClosed { code, text, .. } => (text.clone(), fence::cure(*code, text)),
        error => (error.to_string(), "see the broker's log".to_owned()),
    };
    let what = format!(
        "may not be declared and read, so an instance that hangs may publish beside its successor: {why}"
    );
    Err(Problem { what, cure })
}

async fn on_fresh_channel(
    connection: &mut Connection,
    declaration: &Declaration,
    create: bool,
) -> Result<(), BrokerError> {
    connection.open_channel(CHANNEL).await?;
    declaration.apply(connection, CHANNEL, create).await?;
    connection.close_channel(CHANNEL).await
}

impl From<BrokerError> for Problem {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Declare { error, .. } => Self { what: error.what(), cure: error.cure() },
            // Every other text ends in its cure.
            error => {
                let text = error.to_string();
                match text.rsplit_once("; ") {
                    Some((what, cure)) => Self { what: what.to_owned(), cure: cure.to_owned() },
                    None => Self { what: text, cure: "see the broker's log".to_owned() },
                }
            }
        }
    }
}
