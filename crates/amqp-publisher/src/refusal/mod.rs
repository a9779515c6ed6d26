//! Table of RabbitMQ's refusals: reply codes and texts, each with its meaning and cure.
//!
//! The table serves connecting, declaring, publishing and consuming. Texts are those of RabbitMQ 3.10 to 4.3, because
//! a code says too little: 406 is a difference, a limit, a missing plugin or a too large message. An unknown text
//! falls back to the meaning of its code. RabbitMQ cuts a text after 255 bytes, so rows match the beginning where
//! possible.

use std::fmt;

use diagnostics::{remedy::Mender, shell_word::quoted};

/// AMQP reply codes (specification, table of constants).
pub(crate) mod reply {
    pub(crate) const CONNECTION_FORCED: u16 = 320;
    pub(crate) const ACCESS_REFUSED: u16 = 403;
    pub(crate) const NOT_FOUND: u16 = 404;
    pub(crate) const RESOURCE_LOCKED: u16 = 405;
    pub(crate) const PRECONDITION_FAILED: u16 = 406;
    pub(crate) const FRAME_ERROR: u16 = 501;
    pub(crate) const COMMAND_INVALID: u16 = 503;
    pub(crate) const RESOURCE_ERROR: u16 = 506;
    pub(crate) const NOT_ALLOWED: u16 = 530;
    pub(crate) const INTERNAL_ERROR: u16 = 541;
}

/// Refusal of the broker: the reply code and text with which it closes a channel or connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// AMQP reply code.
    pub code: u16,
    /// The broker's own words.
    pub text: String,
}

impl Refusal {
    pub(crate) fn new(code: u16, text: impl fmt::Display) -> Self {
        Self { code, text: text.to_string() }
    }

    /// Returns the reason.
    pub fn reason(&self) -> Reason {
        find(self.code, &self.text).reason
    }

    /// Returns the meaning, to follow the name of what was refused.
    pub fn means(&self) -> &'static str {
        find(self.code, &self.text).means
    }

    /// Returns the next step for an administrator of RabbitMQ, with names from the text.
    pub fn cure(&self) -> String {
        // No cure holds a semicolon: in an error's text the cure follows the last one.
        let mut cure = find(self.code, &self.text).cure.to_owned();
        for (placeholder, before) in [
            ("{vhost}", &[" in vhost '", "vhost '"][..]),
            ("{user}", &["user '"]),
            ("{exchange}", &["exchange topic '", "exchange '"]),
        ] {
            if cure.contains(placeholder) {
                let name = before.iter().find_map(|before| named(&self.text, before));
                let name = name.map_or_else(|| placeholder[1..placeholder.len() - 1].to_uppercase(), quoted);
                cure = cure.replace(placeholder, &name);
            }
        }
        cure
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}

/// Reason of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// User and password are not accepted.
    Login,
    /// The user has no right to configure, write or read a resource.
    Permission,
    /// The user has no right to a routing key of a topic exchange.
    TopicPermission,
    /// A name begins with `amq.`.
    ReservedName,
    /// The exchange is internal and takes messages only from other exchanges.
    InternalExchange,
    /// The default exchange can be neither declared nor bound.
    DefaultExchange,
    /// Another consumer uses the queue exclusively.
    ExclusiveConsumer,
    /// The exchange, queue or binding does not exist.
    Missing,
    /// The queue exists, but its node or process is down.
    Unavailable,
    /// The queue belongs to another connection, or cannot be read in this way.
    Locked,
    /// The exchange or queue exists with other properties or arguments.
    Different,
    /// The limit of queues of the virtual host or cluster is reached.
    QueueLimit,
    /// The cluster's limit of exchanges is reached.
    ExchangeLimit,
    /// An argument or property is not allowed for this kind of exchange, queue or binding.
    InvalidArgument,
    /// The broker does not know the exchange type, which a plugin may bring.
    UnknownExchangeType,
    /// A message is larger than the broker's `max_message_size`.
    MessageTooLarge,
    /// A property of a message is not allowed.
    InvalidMessage,
    /// A consumer held a message unacknowledged for too long.
    AcknowledgementTimeout,
    /// The virtual host does not exist.
    NoVhost,
    /// The user has no access to the virtual host.
    VhostAccess,
    /// The virtual host exists, but does not run on this node.
    VhostDown,
    /// The virtual host's limit of connections is reached.
    VhostConnectionLimit,
    /// The user's limit of connections is reached.
    UserConnectionLimit,
    /// The node's limit of connections is reached.
    NodeConnectionLimit,
    /// The connection's limit of channels is reached.
    ChannelLimit,
    /// The user's limit of channels is reached.
    UserChannelLimit,
    /// The node's limit of channels is reached.
    NodeChannelLimit,
    /// The channel's limit of consumers is reached.
    ConsumerLimit,
    /// The two sides could not agree on `channel_max` or `frame_max`.
    Negotiation,
    /// The broker does not offer the login mechanism.
    Mechanism,
    /// An operator or the node itself ended the connection.
    Ended,
    /// The broker's configuration or a feature flag forbids this kind of queue.
    FeatureDisabled,
    /// A stream or quorum queue has no replica that answers.
    NoReplica,
    /// A frame is larger than the two sides agreed on.
    FrameTooLarge,
    /// A failure inside the broker.
    Internal,
    /// Anything else.
    Other,
}

impl Reason {
    /// Returns who applies the cure.
    pub fn mender(self) -> Mender {
        match self {
            Self::Login
            | Self::Permission
            | Self::TopicPermission
            | Self::ReservedName
            | Self::InternalExchange
            | Self::DefaultExchange
            | Self::Missing
            | Self::Different
            | Self::QueueLimit
            | Self::ExchangeLimit
            | Self::InvalidArgument
            | Self::UnknownExchangeType
            | Self::MessageTooLarge
            | Self::InvalidMessage
            | Self::NoVhost
            | Self::VhostAccess
            | Self::Negotiation
            | Self::Mechanism
            | Self::FeatureDisabled
            | Self::FrameTooLarge => Mender::Person,
            // Another client may close a connection or end a consumer, and a node may return.
            Self::ExclusiveConsumer
            | Self::Unavailable
            | Self::Locked
            | Self::AcknowledgementTimeout
            | Self::VhostDown
            | Self::VhostConnectionLimit
            | Self::UserConnectionLimit
            | Self::NodeConnectionLimit
            | Self::ChannelLimit
            | Self::UserChannelLimit
            | Self::NodeChannelLimit
            | Self::ConsumerLimit
            | Self::Ended
            | Self::NoReplica
            | Self::Internal
            | Self::Other => Mender::Time,
        }
    }
}

/// Row of the table.
struct Row {
    code: u16,
    /// Parts of the text, in order. The text begins with the first one.
    words: &'static [&'static str],
    reason: Reason,
    /// Completes a sentence after the name of an exchange, queue or binding.
    means: &'static str,
    /// Begins with a verb. `{vhost}`, `{user}` and `{exchange}` are filled in from the text.
    cure: &'static str,
}

const fn row(
    code: u16,
    words: &'static [&'static str],
    reason: Reason,
    means: &'static str,
    cure: &'static str,
) -> Row {
    Row { code, words, reason, means, cure }
}

const UNKNOWN_TYPE: &str = "is of a type that the broker does not know";
const ENABLE_PLUGIN: &str =
    "enable the plugin that brings this type of exchange on every node (rabbitmq-plugins enable)";

/// Known refusals, the more specific ones first. The last row of a code matches any text.
#[rustfmt::skip]
static TABLE: &[Row] = &[
    row(reply::ACCESS_REFUSED, &["access to topic '"], Reason::TopicPermission, "is closed to this user for that routing key",
        "allow the key for writing (binding: for reading): rabbitmqctl set_topic_permissions -p {vhost} {user} {exchange} WRITE READ"),
    row(reply::ACCESS_REFUSED, &["access to "], Reason::Permission, "is closed to this user",
        "grant the user configure, write and read (rabbitmqctl set_permissions -p {vhost} {user} CONFIGURE WRITE READ)"),
    row(reply::ACCESS_REFUSED, &["", " contains reserved prefix 'amq.*'"], Reason::ReservedName, "has a name that only the broker may use",
        "choose a name that does not begin with amq."),
    row(reply::ACCESS_REFUSED, &["cannot publish to internal "], Reason::InternalExchange, "is internal and takes no messages from clients",
        "publish to an exchange that is not internal"),
    row(reply::ACCESS_REFUSED, &["operation not permitted on the default exchange"], Reason::DefaultExchange, "belongs to the default exchange, which cannot be declared or bound",
        "name another exchange"),
    row(reply::ACCESS_REFUSED, &["", " in exclusive use"], Reason::ExclusiveConsumer, "is read by a consumer that has it for itself",
        "stop that consumer (rabbitmqctl list_consumers -p {vhost})"),
    row(reply::ACCESS_REFUSED, &["Login was refused "], Reason::Login, "needs a login that the broker accepts",
        "correct user and password"),
    row(reply::ACCESS_REFUSED, &[""], Reason::Permission, "is refused to this user",
        "grant the user configure, write and read (rabbitmqctl set_permissions)"),

    row(reply::NOT_FOUND, &["home node '"], Reason::Unavailable, "is on a node that is down",
        "start that node: the queue's messages are there (rabbitmqctl cluster_status)"),
    row(reply::NOT_FOUND, &["", " process is stopped by supervisor"], Reason::Unavailable, "does not run",
        "restart the virtual host (rabbitmqctl restart_vhost -p {vhost}) and see the broker's log"),
    row(reply::NOT_FOUND, &["", " has crashed and failed to restart"], Reason::Unavailable, "has crashed",
        "see the broker's log, then restart the virtual host (rabbitmqctl restart_vhost -p {vhost})"),
    row(reply::NOT_FOUND, &["failed to perform operation on "], Reason::Unavailable, "does not answer",
        "look for nodes that are down or overloaded (rabbitmqctl cluster_status, rabbitmq-diagnostics check_if_any_quorum_queues_have_no_leader)"),
    row(reply::NOT_FOUND, &[""], Reason::Missing, "is missing",
        "create it"),

    row(reply::RESOURCE_LOCKED, &["cannot obtain access to locked "], Reason::Locked, "has a single active consumer and cannot be read by basic.get",
        "read it with a consumer"),
    row(reply::RESOURCE_LOCKED, &["Cannot delete protected "], Reason::Locked, "is protected by the broker",
        "leave it to whatever declared it"),
    row(reply::RESOURCE_LOCKED, &[""], Reason::Locked, "belongs to another connection for itself (exclusive)",
        "end that connection (rabbitmqctl list_queues -p {vhost} name owner_pid), or choose another name"),

    row(reply::PRECONDITION_FAILED, &["inequivalent arg '"], Reason::Different, "exists, but differently",
        "declare it as it is, or delete it"),
    row(reply::PRECONDITION_FAILED, &["cannot declare queue '", "queue limit in cluster ("], Reason::QueueLimit, "is refused: the cluster has as many queues as it may have",
        "raise cluster_queue_limit in rabbitmq.conf, or delete queues that nobody needs"),
    row(reply::PRECONDITION_FAILED, &["cannot declare queue '"], Reason::QueueLimit, "is refused: the virtual host has as many queues as it may have",
        "raise the limit (rabbitmqctl set_vhost_limits -p {vhost} '{\"max-queues\": N}', which replaces the virtual host's other limits), remove \
         all its limits (rabbitmqctl clear_vhost_limits -p {vhost}), or delete queues that nobody needs"),
    row(reply::PRECONDITION_FAILED, &["cannot declare exchange '"], Reason::ExchangeLimit, "is refused: the cluster has as many exchanges as it may have",
        "raise cluster_exchange_limit in rabbitmq.conf, or delete exchanges that nobody needs"),
    row(reply::PRECONDITION_FAILED, &["unknown exchange type '"], Reason::UnknownExchangeType, UNKNOWN_TYPE, ENABLE_PLUGIN),
    row(reply::PRECONDITION_FAILED, &["invalid exchange type '"], Reason::UnknownExchangeType, UNKNOWN_TYPE, ENABLE_PLUGIN),
    row(reply::PRECONDITION_FAILED, &["invalid arg '"], Reason::InvalidArgument, "has an argument that this kind of queue does not take",
        "correct the argument, as far as this version of RabbitMQ has it"),
    row(reply::PRECONDITION_FAILED, &["invalid property '"], Reason::InvalidArgument, "has a property that this kind of queue does not take",
        "correct the type of the queue"),
    row(reply::PRECONDITION_FAILED, &["invalid type '"], Reason::InvalidArgument, "has an argument of the wrong type",
        "correct the argument's type"),
    row(reply::PRECONDITION_FAILED, &["Invalid argument, "], Reason::InvalidArgument, "has an argument that this type of exchange does not take",
        "correct the argument"),
    row(reply::PRECONDITION_FAILED, &["Exceeded max value for "], Reason::InvalidArgument, "has an argument that is too large",
        "lower the argument"),
    row(reply::PRECONDITION_FAILED, &["Cannot declare a server-named queue"], Reason::InvalidArgument, "has no name",
        "give the queue a name"),
    row(reply::PRECONDITION_FAILED, &["The binding key must be "], Reason::InvalidArgument, "has a key that this type of exchange does not take",
        "bind it with a number greater than 0"),
    row(reply::PRECONDITION_FAILED, &["message size "], Reason::MessageTooLarge, "takes no message of that size",
        "raise max_message_size in rabbitmq.conf, or send smaller messages"),
    row(reply::PRECONDITION_FAILED, &["invalid expiration '"], Reason::InvalidMessage, "takes no message with that expiration",
        "correct the expiration: a number of milliseconds as text"),
    row(reply::PRECONDITION_FAILED, &["user_id property set to '"], Reason::InvalidMessage, "takes no message with that user_id",
        "leave user_id out, or log in as that user"),
    row(reply::PRECONDITION_FAILED, &["invalid message: "], Reason::InvalidMessage, "takes no such message",
        "correct the message's properties and headers"),
    row(reply::PRECONDITION_FAILED, &["fast reply consumer does not exist"], Reason::InvalidMessage, "takes no message with that reply_to",
        "leave amq.rabbitmq.reply-to out of reply_to"),
    row(reply::PRECONDITION_FAILED, &["delivery acknowledgement on channel "], Reason::AcknowledgementTimeout, "ended a consumer that held a message for too long",
        "find out why the handler hangs, or raise consumer_timeout in rabbitmq.conf"),
    row(reply::PRECONDITION_FAILED, &[""], Reason::Other, "is refused",
        "see the broker's log"),

    row(reply::COMMAND_INVALID, &["unknown exchange type '"], Reason::UnknownExchangeType, UNKNOWN_TYPE, ENABLE_PLUGIN),
    row(reply::COMMAND_INVALID, &["invalid exchange type '"], Reason::UnknownExchangeType, UNKNOWN_TYPE, ENABLE_PLUGIN),
    row(reply::COMMAND_INVALID, &["", " authentication mechanism '"], Reason::Mechanism, "needs a way of logging in that the broker does not offer",
        "correct auth_mechanism in the URL, or enable it on the broker (auth_mechanisms in rabbitmq.conf)"),

    row(reply::NOT_ALLOWED, &["vhost ", " not found"], Reason::NoVhost, "needs a virtual host that does not exist",
        "create it (rabbitmqctl add_vhost), or correct the URL's path, in which the virtual host / is written %2f"),
    row(reply::NOT_ALLOWED, &["access to vhost '", "connection limit (", " is reached"], Reason::VhostConnectionLimit, "needs one more connection than the virtual host may have",
        "raise the limit (rabbitmqctl set_vhost_limits -p {vhost} '{\"max-connections\": N}', which replaces the virtual host's other limits), or \
         close connections that nobody needs (rabbitmqctl list_connections vhost name)"),
    row(reply::NOT_ALLOWED, &["access to vhost '", "connection limit cannot be queried"], Reason::Internal, "needs a connection whose limit the broker cannot look up",
        "look for nodes that are down (rabbitmqctl cluster_status)"),
    row(reply::NOT_ALLOWED, &["access to vhost '"], Reason::VhostAccess, "needs a virtual host that does not exist, or that is closed to this user",
        "create it (rabbitmqctl add_vhost {vhost}), grant it (rabbitmqctl set_permissions -p {vhost} {user} CONFIGURE WRITE READ), or correct the \
         URL's path, in which the virtual host / is written %2f"),
    row(reply::NOT_ALLOWED, &["connection refused for user '"], Reason::UserConnectionLimit, "needs one more connection than the user may have",
        "raise the user's limit (rabbitmqctl set_user_limits {user} '{\"max-connections\": N}', which replaces the user's other limits)"),
    row(reply::NOT_ALLOWED, &["connection refused: node connection limit ("], Reason::NodeConnectionLimit, "needs one more connection than the node may have",
        "raise connection_max in rabbitmq.conf, or close connections that nobody needs"),
    // RabbitMQ 4.0 reports its own node as the user.
    row(reply::NOT_ALLOWED, &["number of channels opened for user '"], Reason::UserChannelLimit, "needs one more channel than the user may have",
        "raise the user's limit (rabbitmqctl set_user_limits USER '{\"max-channels\": N}', which replaces the user's other limits)"),
    row(reply::NOT_ALLOWED, &["number of channels opened on node '"], Reason::NodeChannelLimit, "needs one more channel than the node may have",
        "raise channel_max_per_node in rabbitmq.conf, or close channels that nobody needs"),
    row(reply::NOT_ALLOWED, &["number of channels opened ("], Reason::ChannelLimit, "needs one more channel than a connection may have",
        "raise channel_max in rabbitmq.conf, and remove it from the URL"),
    row(reply::NOT_ALLOWED, &["negotiated "], Reason::Negotiation, "needs another channel_max or frame_max",
        "remove channel_max and frame_max from the URL, so that the broker's own values hold"),
    row(reply::NOT_ALLOWED, &["reached maximum ("], Reason::ConsumerLimit, "needs one more consumer than a channel may have",
        "raise consumer_max_per_channel in rabbitmq.conf"),
    row(reply::NOT_ALLOWED, &[""], Reason::Other, "is not allowed",
        "see the broker's log"),

    row(reply::CONNECTION_FORCED, &[""], Reason::Ended, "needs a connection, which the broker ended",
        "see whether a node stops or an operator closed the connection"),
    row(reply::RESOURCE_ERROR, &[""], Reason::NoReplica, "has no replica that answers",
        "look for nodes that are down (rabbitmqctl cluster_status)"),
    row(reply::FRAME_ERROR, &[""], Reason::FrameTooLarge, "needs a larger frame than the two sides agreed on",
        "raise frame_max in the URL"),
    row(reply::INTERNAL_ERROR, &["access to vhost '", " is down"], Reason::VhostDown, "needs a virtual host that does not run on this node",
        "start it (rabbitmqctl restart_vhost -p {vhost}) and see the broker's log"),
    row(reply::INTERNAL_ERROR, &["Feature `"], Reason::FeatureDisabled, "needs a feature that the broker's configuration forbids",
        "permit it in rabbitmq.conf (deprecated_features.permit), or do without it"),
    row(reply::INTERNAL_ERROR, &["", "the corresponding feature flag is disabled"], Reason::FeatureDisabled, "is of a kind whose feature flag is disabled",
        "enable it (rabbitmqctl enable_feature_flag all)"),
    row(reply::INTERNAL_ERROR, &[""], Reason::Internal, "met a failure inside the broker",
        "see the broker's log, and whether a majority of the cluster's nodes is up (rabbitmqctl cluster_status)"),
];

/// Row for an unknown code.
static UNKNOWN: Row = row(0, &[""], Reason::Other, "is refused", "see the broker's log");

fn find(code: u16, text: &str) -> &'static Row {
    let sentence = sentence(text);
    TABLE.iter().find(|row| row.code == code && is_said(sentence, row.words)).unwrap_or(&UNKNOWN)
}

/// Returns the text without the code's name (`PRECONDITION_FAILED - `) and without the right that RabbitMQ 4 names
/// (`write access to exchange ...`, up to 3.13 `access to exchange ...`).
fn sentence(text: &str) -> &str {
    let sentence = match text.split_once(" - ") {
        Some((name, sentence)) if name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') => sentence,
        _ => text,
    };
    let rights = ["configure ", "write ", "read "];
    let named = rights.iter().find_map(|right| sentence.strip_prefix(right));
    named.filter(|rest| rest.starts_with("access to ")).unwrap_or(sentence)
}

fn is_said(sentence: &str, words: &[&str]) -> bool {
    let Some((first, others)) = words.split_first() else { return true };
    let Some(mut rest) = sentence.strip_prefix(first) else { return false };
    others.iter().all(|words| match rest.split_once(words) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

/// Returns the quoted name after `before`.
fn named<'t>(text: &'t str, before: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once('\'').map(|(name, _)| name)
}

#[cfg(test)]
mod tests;
