use super::*;

/// RabbitMQ's texts, of each version in which they differ, from its source and partly from nodes.
const SENTENCES: &[(u16, &str, Reason)] = &[
    (
        403,
        "ACCESS_REFUSED - access to exchange 'Order.events' in vhost '/' refused for user 'shop'",
        Reason::Permission,
    ),
    (
        403,
        "ACCESS_REFUSED - access to queue 'q' in vhost 'v' refused for user 'shop', backend rabbit_auth_backend_http returned an error: timeout",
        Reason::Permission,
    ),
    (
        403,
        "ACCESS_REFUSED - access to topic 'Nope' in exchange topic 'Order.events' in vhost '/' refused for user 'shop'",
        Reason::TopicPermission,
    ),
    (
        403,
        "ACCESS_REFUSED - configure access to queue 'q' in vhost 'v' refused for user 'shop'",
        Reason::Permission,
    ),
    (
        403,
        "ACCESS_REFUSED - write access to exchange 'open' in vhost 'v' refused for user 'shop'",
        Reason::Permission,
    ),
    (
        403,
        "ACCESS_REFUSED - read access to topic 'Nope' in exchange 'Order.events' in vhost 'v' refused for user 'shop'",
        Reason::TopicPermission,
    ),
    (403, "ACCESS_REFUSED - queue name 'amq.q' contains reserved prefix 'amq.*'", Reason::ReservedName),
    (403, "ACCESS_REFUSED - exchange name 'amq.x' contains reserved prefix 'amq.*'", Reason::ReservedName),
    (403, "ACCESS_REFUSED - cannot publish to internal exchange 'x' in vhost '/'", Reason::InternalExchange),
    (403, "ACCESS_REFUSED - operation not permitted on the default exchange", Reason::DefaultExchange),
    (403, "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use", Reason::ExclusiveConsumer),
    (
        403,
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.",
        Reason::Login,
    ),
    (403, "ACCESS_REFUSED - something new", Reason::Permission),
    (404, "NOT_FOUND - no exchange 'x' in vhost '/'", Reason::Missing),
    (404, "NOT_FOUND - no queue 'q' in vhost '/'", Reason::Missing),
    (
        404,
        "NOT_FOUND - no binding k between exchange 'x' in vhost '/' and queue 'q' in vhost '/'",
        Reason::Missing,
    ),
    (
        404,
        "NOT_FOUND - home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or inaccessible",
        Reason::Unavailable,
    ),
    (404, "NOT_FOUND - queue 'q' in vhost '/' process is stopped by supervisor", Reason::Unavailable),
    (404, "NOT_FOUND - queue 'q' in vhost '/' has crashed and failed to restart", Reason::Unavailable),
    (
        404,
        "NOT_FOUND - failed to perform operation on queue 'q' in vhost '/' due to timeout",
        Reason::Unavailable,
    ),
    (
        404,
        "NOT_FOUND - failed to perform operation on queue 'q' in vhost '/': its master replica <0.1.0> may be stopping or being demoted",
        Reason::Unavailable,
    ),
    (
        404,
        "NOT_FOUND - failed to perform operation on queue 'q' in vhost '/': its leader <0.1.0> may be stopping or being demoted",
        Reason::Unavailable,
    ),
    (
        405,
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be originally declared on another connection or the exclusive property value does not match that of the original declara...",
        Reason::Locked,
    ),
    (
        405,
        "RESOURCE_LOCKED - cannot obtain access to locked queue 'q' in vhost '/'. basic.get operations are not supported by quorum queues with single active consumer",
        Reason::Locked,
    ),
    (405, "RESOURCE_LOCKED - Cannot delete protected queue 'q' in vhost '/'.", Reason::Locked),
    (
        406,
        "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'x' in vhost '/': received 'topic' but current is 'fanout'",
        Reason::Different,
    ),
    (
        406,
        "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received none but current is the value '5' of type 'signedint'",
        Reason::Different,
    ),
    (
        406,
        "PRECONDITION_FAILED - cannot declare queue 'a.q': queue limit in vhost 'V' (1) is reached",
        Reason::QueueLimit,
    ),
    (
        406,
        "PRECONDITION_FAILED - cannot declare queue 'a.q': queue limit in cluster (1) is reached",
        Reason::QueueLimit,
    ),
    (
        406,
        "PRECONDITION_FAILED - cannot declare queue 'a-name-so-long-that-the-rest-is-cut...",
        Reason::QueueLimit,
    ),
    (
        406,
        "PRECONDITION_FAILED - cannot declare exchange 'x' in vhost '/': exchange limit of 20 is reached",
        Reason::ExchangeLimit,
    ),
    (406, "PRECONDITION_FAILED - unknown exchange type 'x-none'", Reason::UnknownExchangeType),
    (406, "PRECONDITION_FAILED - invalid exchange type 'x-consistent-hash'", Reason::UnknownExchangeType),
    (503, "COMMAND_INVALID - unknown exchange type 'x-none'", Reason::UnknownExchangeType),
    (503, "COMMAND_INVALID - invalid exchange type 'x-consistent-hash'", Reason::UnknownExchangeType),
    (503, "COMMAND_INVALID - unknown authentication mechanism 'NONE'", Reason::Mechanism),
    (503, "COMMAND_INVALID - invalid authentication mechanism 'EXTERNAL'", Reason::Mechanism),
    (
        406,
        "PRECONDITION_FAILED - invalid arg 'x-message-ttl' for queue 'q' in vhost '/': {value_negative,-1}",
        Reason::InvalidArgument,
    ),
    (
        406,
        "PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue 'q' in vhost '/' of queue type rabbit_quorum_queue",
        Reason::InvalidArgument,
    ),
    (
        406,
        "PRECONDITION_FAILED - invalid property 'exclusive-owner' for queue 'q' in vhost '/'",
        Reason::InvalidArgument,
    ),
    (
        406,
        "PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' in exchange 'x' in vhost '/'",
        Reason::InvalidArgument,
    ),
    (
        406,
        "PRECONDITION_FAILED - Invalid argument, 'x-delayed-type' must be an existing exchange type",
        Reason::InvalidArgument,
    ),
    (
        406,
        "PRECONDITION_FAILED - Exceeded max value for x-stream-max-segment-size-bytes",
        Reason::InvalidArgument,
    ),
    (406, "PRECONDITION_FAILED - The binding key must be an integer: #", Reason::InvalidArgument),
    (
        406,
        "PRECONDITION_FAILED - message size 2097152 is larger than configured max size 1048576",
        Reason::MessageTooLarge,
    ),
    (
        406,
        "PRECONDITION_FAILED - message size 536870913 is larger than max size 536870912",
        Reason::MessageTooLarge,
    ),
    (
        406,
        "PRECONDITION_FAILED - invalid expiration 'soon': {leftover_string,\"soon\"}",
        Reason::InvalidMessage,
    ),
    (
        406,
        "PRECONDITION_FAILED - user_id property set to 'a' but authenticated user was 'b'",
        Reason::InvalidMessage,
    ),
    (406, "PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header}", Reason::InvalidMessage),
    (406, "PRECONDITION_FAILED - fast reply consumer does not exist", Reason::InvalidMessage),
    (
        406,
        "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1800000 ms. This timeout value can be configured, see consumers doc guide to learn more",
        Reason::AcknowledgementTimeout,
    ),
    (406, "PRECONDITION_FAILED - unknown delivery tag 5", Reason::Other),
    (530, "NOT_ALLOWED - vhost shop not found", Reason::NoVhost),
    (530, "NOT_ALLOWED - access to vhost 'shop' refused for user 'guest'", Reason::VhostAccess),
    (
        530,
        "NOT_ALLOWED - access to vhost 'shop' refused for user 'guest': connection limit (1) is reached",
        Reason::VhostConnectionLimit,
    ),
    (
        530,
        "NOT_ALLOWED - access to vhost 'shop' refused for user 'guest': connection limit cannot be queried, timeout",
        Reason::Internal,
    ),
    (
        530,
        "NOT_ALLOWED - connection refused for user 'shop': user connection limit (1) is reached",
        Reason::UserConnectionLimit,
    ),
    (
        530,
        "NOT_ALLOWED - connection refused: node connection limit (10) is reached",
        Reason::NodeConnectionLimit,
    ),
    (
        530,
        "NOT_ALLOWED - number of channels opened for user 'shop' has reached the maximum allowed user limit of (2)",
        Reason::UserChannelLimit,
    ),
    (
        530,
        "NOT_ALLOWED - number of channels opened for user 'shop' has reached the maximum allowed user limit of 2",
        Reason::UserChannelLimit,
    ),
    (
        530,
        "NOT_ALLOWED - number of channels opened on node 'rabbit@a' has reached the maximum allowed limit of (100)",
        Reason::NodeChannelLimit,
    ),
    (
        530,
        "NOT_ALLOWED - number of channels opened (1) has reached the negotiated channel_max (1)",
        Reason::ChannelLimit,
    ),
    (
        530,
        "NOT_ALLOWED - negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2)",
        Reason::Negotiation,
    ),
    (
        530,
        "NOT_ALLOWED - negotiated frame_max = 100 is lower than the minimum allowed value (4096)",
        Reason::Negotiation,
    ),
    (530, "NOT_ALLOWED - reached maximum (1) of consumers per channel", Reason::ConsumerLimit),
    (530, "NOT_ALLOWED - attempt to reuse consumer tag 'q'", Reason::Other),
    (320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", Reason::Ended),
    (320, "CONNECTION_FORCED - vhost 'v' is deleted", Reason::Ended),
    (320, "CONNECTION_FORCED - Node was put into maintenance mode", Reason::Ended),
    (501, "FRAME_ERROR - type 2, all octets = <<>>: {frame_too_large,40000,32760}", Reason::FrameTooLarge),
    (506, "RESOURCE_ERROR - queue 's' in vhost '/' does not have a running local replica", Reason::NoReplica),
    (
        541,
        "INTERNAL_ERROR - access to vhost 'v' refused for user 'guest': vhost 'v' is down",
        Reason::VhostDown,
    ),
    (
        541,
        "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.\nIts use is not permitted",
        Reason::FeatureDisabled,
    ),
    (
        541,
        "INTERNAL_ERROR - Cannot declare a queue 'queue 's' in vhost '/'' of type 'rabbit_stream_queue' on node 'rabbit@a': the corresponding feature flag is disabled",
        Reason::FeatureDisabled,
    ),
    (
        541,
        "INTERNAL_ERROR - Cannot declare a queue 'queue 'q' in vhost '/'' on node 'rabbit@a': {error,timeout}",
        Reason::Internal,
    ),
    (999, "something from another time", Reason::Other),
];

#[test]
fn every_sentence_of_the_broker_has_its_cause() {
    for (code, text, expected) in SENTENCES {
        assert_eq!(Refusal::new(*code, text).reason(), *expected, "{code} {text}");
    }
}

#[test]
fn every_row_is_reached_by_a_sentence_and_has_one_cure_without_leftovers() {
    for row in TABLE {
        let mut reached = SENTENCES.iter().filter(|(code, text, _)| std::ptr::eq(find(*code, text), row));
        let falls_back = row.words == [""] || row.reason == Reason::InvalidArgument;
        assert!(reached.next().is_some() || falls_back, "no sentence for {} {:?}", row.code, row.words);
    }
    for (code, text, _) in SENTENCES {
        let cure = Refusal::new(*code, text).cure();
        assert!(
            !cure.contains("; ") && !cure.contains("{v") && !cure.contains("{u") && !cure.contains("{e"),
            "{cure}"
        );
        assert!(!cure.is_empty(), "{code} {text}");
    }
}

#[test]
fn a_cure_names_the_vhost_user_and_exchange_of_the_sentence() {
    let cure = |code, text: &str| Refusal::new(code, text).cure();
    let limit = cure(
        406,
        "PRECONDITION_FAILED - cannot declare queue 'a.q': queue limit in vhost 'V 1' (1) is reached",
    );
    assert!(limit.contains("set_vhost_limits -p 'V 1' '{\"max-queues\": N}'"), "{limit}");
    assert!(limit.contains("clear_vhost_limits -p 'V 1'"), "{limit}");
    let topic = "ACCESS_REFUSED - access to topic 'Nope' in exchange topic 'Order.events' in vhost '/' refused for user 'shop'";
    let topic = cure(403, topic);
    assert!(topic.ends_with("set_topic_permissions -p / shop Order.events WRITE READ"), "{topic}");
    // A name that was cut off is left out.
    let cut = cure(406, "PRECONDITION_FAILED - cannot declare queue 'a-name-so-long-that-the-rest-is-cut...");
    assert!(cut.contains("set_vhost_limits -p VHOST"), "{cut}");
}
