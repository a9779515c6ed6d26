#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::time::Duration;

use amq_protocol::{
    frame::{AMQPFrame, parsing::parse_frame},
    protocol::{basic, channel, confirm, connection, exchange, queue},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

use super::{message::HeaderValue, *};
use crate::{
    connection::link::Link,
    fence::{self, FenceOwner},
    frame::Head,
};

const HEADER: &str = "number";

fn message(number: u64, exchange: &str) -> Arc<Message> {
    Arc::new(Message {
        exchange: exchange.into(),
        headers: vec![(HEADER.into(), HeaderValue::Text(number.to_string()))],
        body: bytes::Bytes::from_static(b"x"),
        ..Message::default()
    })
}

/// Returns a publisher, and the broker's end of its connection.
fn publisher() -> (Publisher, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let known = HashSet::from(["known".to_owned()]);
    let connection = Connection::over(Box::new(ours), &[MESSAGES, DECLARES]);
    let publisher = Publisher::over(connection, true, known, HEADER);
    (publisher, theirs)
}

async fn say(broker: &mut (impl AsyncWrite + Unpin), channel: ChannelId, method: AMQPClass) {
    let mut link = Link::new(Box::new(tokio::io::empty()));
    link.put(&AMQPFrame::Method(channel, method)).unwrap();
    broker.write_all(link.output()).await.unwrap();
}

fn closed(reply_code: u16) -> AMQPClass {
    closed_saying(reply_code, "because")
}

fn closed_saying(reply_code: u16, text: &str) -> AMQPClass {
    let close = channel::Close { reply_code, reply_text: text.into(), class_id: 0, method_id: 0 };
    AMQPClass::Channel(channel::AMQPMethod::Close(close))
}

/// Returns RabbitMQ's close of the channel for a publish to a missing exchange.
fn not_found(exchange: &str) -> AMQPClass {
    let reply_text = format!("NOT_FOUND - no exchange '{exchange}' in vhost '/'").as_str().into();
    let close = channel::Close { reply_code: 404, reply_text, class_id: 60, method_id: 40 };
    AMQPClass::Channel(channel::AMQPMethod::Close(close))
}

fn opened() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {}))
}

async fn confirm(broker: &mut (impl AsyncWrite + Unpin), delivery_tag: u64) {
    let ack = basic::Ack { delivery_tag, multiple: false };
    say(broker, MESSAGES, AMQPClass::Basic(basic::AMQPMethod::Ack(ack))).await;
}

async fn next(publisher: &mut Publisher) -> Result<PublisherEvent, BrokerError> {
    tokio::time::timeout(Duration::from_secs(10), publisher.next()).await.expect("an event")
}

async fn is_quiet(publisher: &mut Publisher) -> bool {
    tokio::time::timeout(Duration::from_millis(50), publisher.next()).await.is_err()
}

#[tokio::test]
async fn an_exchange_that_is_refused_gives_back_what_was_not_sent_and_the_connection_goes_on() {
    let (mut publisher, mut broker) = publisher();
    publisher.publish(PublishTag(1), message(1, "known"));
    publisher.publish(PublishTag(2), message(2, "another"));
    publisher.publish(PublishTag(3), message(3, "known"));
    assert!(is_quiet(&mut publisher).await);
    say(&mut broker, DECLARES, closed(406)).await;
    match next(&mut publisher).await.unwrap() {
        PublisherEvent::ExchangeRefused { refused: Refused::Exchange(error), unsent } => {
            assert!(error.object.contains("'another'"), "{error}");
            assert_eq!(unsent, [2, 3].map(PublishTag));
        }
        other => panic!("{other:?}"),
    }
    confirm(&mut broker, 1).await;
    assert!(matches!(next(&mut publisher).await.unwrap(), PublisherEvent::Outcomes(_)));
    publisher.publish(PublishTag(3), message(3, "known"));
    assert!(is_quiet(&mut publisher).await);
    say(&mut broker, DECLARES, opened()).await;
    assert!(is_quiet(&mut publisher).await);
    confirm(&mut broker, 2).await;
    assert!(matches!(next(&mut publisher).await.unwrap(), PublisherEvent::Outcomes(_)));
}

#[tokio::test]
async fn a_channel_that_is_closed_for_a_message_is_opened_again_and_gives_back_what_has_no_outcome() {
    let (mut publisher, mut broker) = publisher();
    for number in 1..=3 {
        publisher.publish(PublishTag(number), message(number, "known"));
    }
    assert!(is_quiet(&mut publisher).await);
    confirm(&mut broker, 2).await;
    say(&mut broker, MESSAGES, closed(403)).await;
    let told = next(&mut publisher).await.unwrap();
    assert!(
        matches!(&told, PublisherEvent::Outcomes(told) if told[..] == [(PublishTag(2), Outcome::Confirmed)]),
        "what was confirmed before is told before: {told:?}"
    );
    match next(&mut publisher).await.unwrap() {
        PublisherEvent::ChannelClosed {
            refused: Refused::Publish(Refusal { code: 403, .. }),
            sent,
            unsent,
        } => {
            assert_eq!((sent, unsent), (vec![PublishTag(1), PublishTag(3)], Vec::new()));
        }
        other => panic!("{other:?}"),
    }
    publisher.publish(PublishTag(1), message(1, "known"));
    assert!(is_quiet(&mut publisher).await, "nothing is sent before the channel is open");
    say(&mut broker, MESSAGES, opened()).await;
    let selected = AMQPClass::Confirm(AMQPMethod::SelectOk(confirm::SelectOk {}));
    say(&mut broker, MESSAGES, selected).await;
    assert!(is_quiet(&mut publisher).await);
    confirm(&mut broker, 1).await;
    let told = next(&mut publisher).await.unwrap();
    assert!(
        matches!(&told, PublisherEvent::Outcomes(told) if told[..] == [(PublishTag(1), Outcome::Confirmed)]),
        "its numbers begin anew: {told:?}"
    );
    // A missing predeclared exchange concerns the message only. Any other missing one of the topology ends the
    // connection.
    publisher.publish(PublishTag(2), message(2, "amq.rabbitmq.event"));
    assert!(is_quiet(&mut publisher).await);
    say(&mut broker, MESSAGES, not_found("amq.rabbitmq.event")).await;
    let told = next(&mut publisher).await.unwrap();
    assert!(
        matches!(
            told,
            PublisherEvent::ChannelClosed { refused: Refused::Publish(Refusal { code: 404, .. }), .. }
        ),
        "{told:?}"
    );
    say(&mut broker, MESSAGES, opened()).await;
    let selected = AMQPClass::Confirm(AMQPMethod::SelectOk(confirm::SelectOk {}));
    say(&mut broker, MESSAGES, selected).await;
    publisher.publish(PublishTag(3), message(3, "known"));
    assert!(is_quiet(&mut publisher).await);
    say(&mut broker, MESSAGES, closed(404)).await;
    let told = next(&mut publisher).await;
    assert!(
        matches!(told, Err(BrokerError::ChannelClosed { refusal: Refusal { code: 404, .. }, .. })),
        "{told:?}"
    );
}

#[test]
fn a_planned_exchange_is_recognised_in_a_text_that_is_cut_or_latin_1() {
    let long = format!("{}.events", "ä".repeat(120));
    let whole = format!("{long}' in vhost '");
    let cut = format!("{}?...", "ä".repeat(113));
    for named in [&*format!("{whole}/'"), &cut, &format!("{}.events' in vhost '/'", "?".repeat(120))] {
        assert!(is_said(named, &whole), "{named}");
    }
    for other in ["ä' in vhost '/'", "ö...", &format!("x{cut}"), &format!("{long}.more' in vhost '/'")] {
        assert!(!is_said(other, &whole), "{other}");
    }
    assert!(!is_said("Order?events' in vhost '/'", "Order.events' in vhost '"));
}

/// RabbitMQ answers the declaration of such an exchange, but does not find it. The message is refused, and the
/// connection stays.
#[tokio::test]
async fn an_exchange_of_a_message_that_is_not_found_is_declared_again_and_is_a_matter_of_that_message() {
    let (mut publisher, mut broker) = publisher();
    let declared = || AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {}));
    for _ in 0..2 {
        publisher.publish(PublishTag(1), message(1, "own"));
        assert!(is_quiet(&mut publisher).await);
        say(&mut broker, DECLARES, declared()).await;
        assert!(is_quiet(&mut publisher).await, "declared, and sent");
        let close = not_found("own");
        say(&mut broker, MESSAGES, close).await;
        match next(&mut publisher).await.unwrap() {
            PublisherEvent::ChannelClosed {
                refused: Refused::Publish(Refusal { code: 404, .. }),
                sent,
                ..
            } => {
                assert_eq!(sent, [PublishTag(1)]);
            }
            other => panic!("{other:?}"),
        }
        say(&mut broker, MESSAGES, opened()).await;
        let selected = AMQPClass::Confirm(AMQPMethod::SelectOk(confirm::SelectOk {}));
        say(&mut broker, MESSAGES, selected).await;
    }
    // An exchange of the topology has lost its bindings.
    publisher.publish(PublishTag(2), message(2, "known"));
    assert!(is_quiet(&mut publisher).await);
    say(&mut broker, MESSAGES, not_found("known")).await;
    let told = next(&mut publisher).await;
    assert!(
        matches!(told, Err(BrokerError::ChannelClosed { refusal: Refusal { code: 404, .. }, .. })),
        "{told:?}"
    );
}

fn declared() -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {}))
}

/// Returns the next declaration that the broker gets: the exchange's name, and whether it is passive.
async fn declare_of(publisher: &mut Publisher, broker: &mut DuplexStream) -> (String, bool) {
    assert!(is_quiet(publisher).await);
    let mut heard = bytes::BytesMut::new();
    loop {
        let frame = asked(broker, &mut heard).await;
        if let AMQPFrame::Method(DECLARES, AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare))) =
            frame
        {
            assert!(heard.is_empty(), "nothing is sent beside it");
            return (declare.exchange.to_string(), declare.passive);
        }
    }
}

/// Answers a look for an exchange with "not found".
async fn miss(publisher: &mut Publisher, broker: &mut DuplexStream, exchange: &str) {
    assert_eq!(declare_of(publisher, broker).await, (exchange.to_owned(), true));
    say(broker, DECLARES, not_found(exchange)).await;
    say(broker, DECLARES, opened()).await;
}

/// Has the publisher declare an exchange.
async fn make(publisher: &mut Publisher, broker: &mut DuplexStream, exchange: &str) {
    assert_eq!(declare_of(publisher, broker).await, (exchange.to_owned(), false));
    say(broker, DECLARES, declared()).await;
}

/// Has the publisher declare an exchange that the broker lacks, and expects the publisher to report it.
async fn make_missing(publisher: &mut Publisher, broker: &mut DuplexStream, exchange: &str) {
    miss(publisher, broker, exchange).await;
    make(publisher, broker, exchange).await;
    match next(publisher).await.unwrap() {
        PublisherEvent::ExchangeDeclared { exchange: told } => assert_eq!(told, exchange),
        other => panic!("{other:?}"),
    }
}

async fn is_one_too_many(publisher: &mut Publisher, tags: &[u64]) {
    match next(publisher).await.unwrap() {
        PublisherEvent::ExchangeRefused { refused, unsent } => {
            assert_eq!(refused, Refused::TooManyExchanges { exchanges_max: 1 });
            assert_eq!(unsent, tags.iter().copied().map(PublishTag).collect::<Vec<_>>());
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn messages_have_as_many_exchanges_declared_as_the_limit_says_over_all_connections() {
    let exchange_limit = ExchangeLimit::new(1, Some("literal"));
    for connection in 0..2 {
        let (publisher, mut broker) = publisher();
        let mut publisher = Publisher { exchange_limit: exchange_limit.clone(), ..publisher };
        publisher.publish(PublishTag(1), message(1, "first"));
        publisher.publish(PublishTag(2), message(2, "second"));
        publisher.publish(PublishTag(3), message(3, "known"));
        match connection {
            0 => make_missing(&mut publisher, &mut broker, "first").await,
            _ => make(&mut publisher, &mut broker, "first").await,
        }
        miss(&mut publisher, &mut broker, "second").await;
        is_one_too_many(&mut publisher, &[2, 3]).await;
        // The connection knows the first exchange, and the topology's exchange does not count.
        publisher.publish(PublishTag(3), message(3, "known"));
        publisher.publish(PublishTag(4), message(4, "first"));
        publisher.publish(PublishTag(5), message(5, "literal"));
        make(&mut publisher, &mut broker, "literal").await;
        assert!(is_quiet(&mut publisher).await);
        assert_eq!(publisher.confirms.close(), [1, 3, 4, 5].map(PublishTag), "sent");
    }
    // Verification declares nothing.
    let (publisher, _broker) = publisher();
    let mut publisher = Publisher { exchange_limit, declare: false, ..publisher };
    publisher.publish(PublishTag(5), message(5, "third"));
    assert!(is_quiet(&mut publisher).await);
    assert_eq!(publisher.declaring, Some(("third".to_owned(), Question::Verify)));
}

#[tokio::test]
async fn exchanges_that_are_there_count_for_nothing_and_those_that_are_gone_no_longer() {
    let (publisher, mut broker) = publisher();
    let mut publisher = Publisher { exchange_limit: ExchangeLimit::new(1, None), ..publisher };
    for (tag, exchange) in [(1, "old"), (2, "older")] {
        publisher.publish(PublishTag(tag), message(tag, exchange));
        assert_eq!(declare_of(&mut publisher, &mut broker).await, (exchange.to_owned(), true));
        say(&mut broker, DECLARES, declared()).await;
        make(&mut publisher, &mut broker, exchange).await;
    }
    publisher.publish(PublishTag(3), message(3, "first"));
    make_missing(&mut publisher, &mut broker, "first").await;
    publisher.publish(PublishTag(4), message(4, "second"));
    miss(&mut publisher, &mut broker, "second").await;
    is_one_too_many(&mut publisher, &[4]).await;

    publisher.publish(PublishTag(5), message(5, "first"));
    assert!(is_quiet(&mut publisher).await);
    say(&mut broker, MESSAGES, not_found("first")).await;
    let told = next(&mut publisher).await.unwrap();
    assert!(matches!(told, PublisherEvent::ChannelClosed { .. }), "{told:?}");
    say(&mut broker, MESSAGES, opened()).await;
    let selected = AMQPClass::Confirm(AMQPMethod::SelectOk(confirm::SelectOk {}));
    say(&mut broker, MESSAGES, selected).await;
    publisher.publish(PublishTag(4), message(4, "second"));
    make_missing(&mut publisher, &mut broker, "second").await;
    assert!(is_quiet(&mut publisher).await);
    assert_eq!(publisher.confirms.close(), [PublishTag(4)]);
}

/// Returns the next frame that the broker gets. Bytes after it stay in `heard`.
async fn asked(hears: &mut (impl AsyncRead + Unpin), heard: &mut bytes::BytesMut) -> AMQPFrame {
    loop {
        if let Ok((_, frame)) = parse_frame(&heard[..]) {
            let length = Head::peek(heard).unwrap().unwrap().length;
            drop(heard.split_to(length));
            return frame;
        }
        hears.read_buf(heard).await.unwrap();
    }
}

fn blocked(reason: &str) -> AMQPClass {
    let blocked = connection::Blocked { reason: reason.into() };
    AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked))
}

#[tokio::test]
async fn of_blocks_only_the_last_is_told() {
    let (mut publisher, mut broker) = publisher();
    for reason in ["low on memory", "low on disk"] {
        say(&mut broker, 0, blocked(reason)).await;
    }
    let told = next(&mut publisher).await.unwrap();
    assert!(matches!(&told, PublisherEvent::Blocked { reason } if reason == "low on disk"), "{told:?}");
    let unblocked = || AMQPClass::Connection(connection::AMQPMethod::Unblocked(connection::Unblocked {}));
    say(&mut broker, 0, unblocked()).await;
    assert!(matches!(next(&mut publisher).await.unwrap(), PublisherEvent::Unblocked));
    say(&mut broker, 0, blocked("for a moment")).await;
    say(&mut broker, 0, unblocked()).await;
    assert!(is_quiet(&mut publisher).await);
}

#[tokio::test]
async fn a_broker_that_blocks_and_unblocks_without_end_is_given_up() {
    let (mut publisher, mut broker) = publisher();
    publisher.publish(PublishTag(1), message(1, "known"));
    assert!(is_quiet(&mut publisher).await);
    confirm(&mut broker, 1).await;
    for _ in 0..200 {
        say(&mut broker, 0, blocked("again")).await;
    }
    let told = next(&mut publisher).await.unwrap();
    assert!(matches!(told, PublisherEvent::Outcomes(_)), "{told:?}");
    let told = loop {
        match next(&mut publisher).await {
            Ok(PublisherEvent::Blocked { .. }) => {}
            other => break other,
        }
    };
    let text = told.expect_err("the connection is given up").to_string();
    assert!(text.contains("connection.blocked"), "{text}");
}

#[tokio::test]
async fn frames_that_nobody_asked_for_in_place_of_an_answer_are_limited() {
    let (ours, mut broker) = tokio::io::duplex(1 << 16);
    let mut connection = Connection::over(Box::new(ours), &[]);
    let flood = async {
        for _ in 0..1000 {
            confirm(&mut broker, 1).await;
        }
    };
    let (opened, ()) = tokio::join!(connection.open_channel(DECLARES), flood);
    let text = opened.unwrap_err().to_string();
    assert!(text.contains("frames that nobody asked for"), "{text}");
    assert!(connection.is_lost());
}

#[tokio::test]
async fn confirms_without_number_before_the_answer_do_not_keep_a_connection_from_closing_in_good_order() {
    let (ours, mut broker) = tokio::io::duplex(256);
    let connection = Connection::over(Box::new(ours), &[]);
    // A dropped connection accepts no more of them.
    let answers = async {
        for _ in 0..1000 {
            confirm(&mut broker, 1).await;
        }
        let closed = AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}));
        say(&mut broker, 0, closed).await;
    };
    tokio::join!(connection.close(), answers);
}

#[tokio::test]
async fn a_broker_that_closes_channels_without_end_does_not_keep_a_connection_from_closing() {
    let (ours, mut broker) = tokio::io::duplex(256);
    let connection = Connection::over(Box::new(ours), &[MESSAGES]);
    let flood = async {
        let mut link = Link::new(Box::new(tokio::io::empty()));
        link.put(&AMQPFrame::Method(MESSAGES, closed(406))).unwrap();
        while broker.write_all(link.output()).await.is_ok() {}
    };
    let closing = tokio::time::timeout(Duration::from_secs(2), connection.close());
    let (closed, ()) = tokio::join!(closing, flood);
    assert!(closed.is_ok(), "it waited for the answer, and answered each close meanwhile");
}

/// Returns the fence states that the `publisher` reports within some time. The broker answers each request by
/// `answer`, whose argument is whether the request is a passive declaration.
async fn told_of_fence(
    publisher: &mut Publisher,
    broker: tokio::io::DuplexStream,
    within: Duration,
    mut answer: impl FnMut(bool) -> AMQPClass,
) -> Vec<Fence> {
    told_of_fence_in_time(publisher, broker, within, async |is_look| answer(is_look)).await
}

/// As [`told_of_fence`], with a delay before each answer.
async fn told_of_fence_in_time(
    publisher: &mut Publisher,
    broker: tokio::io::DuplexStream,
    within: Duration,
    mut answer: impl AsyncFnMut(bool) -> AMQPClass,
) -> Vec<Fence> {
    const FENCE: ChannelId = 3;
    publisher.fence("only.publisher");
    let (mut hears, mut says) = tokio::io::split(broker);
    let answers = async {
        let mut heard = bytes::BytesMut::new();
        loop {
            let answer = match asked(&mut hears, &mut heard).await {
                AMQPFrame::Method(FENCE, AMQPClass::Channel(channel::AMQPMethod::Open(_))) => opened(),
                AMQPFrame::Method(FENCE, AMQPClass::Queue(queue::AMQPMethod::Declare(declare))) => {
                    answer(declare.passive).await
                }
                AMQPFrame::Method(FENCE, AMQPClass::Basic(basic::AMQPMethod::Consume(consume))) => {
                    let watched = basic::ConsumeOk { consumer_tag: consume.consumer_tag };
                    AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(watched))
                }
                _ => continue,
            };
            say(&mut says, FENCE, answer).await;
        }
    };
    let mut told = Vec::new();
    let tells = async {
        loop {
            match publisher.next().await.unwrap() {
                PublisherEvent::Fence(fence) => told.push(fence),
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::select! {
        () = answers => unreachable!(),
        () = tells => unreachable!(),
        () = tokio::time::sleep(within) => {}
    }
    told
}

fn found(consumer_count: u32, message_count: u32) -> AMQPClass {
    let found = queue::DeclareOk { queue: "q".into(), message_count, consumer_count };
    AMQPClass::Queue(queue::AMQPMethod::DeclareOk(found))
}

fn is_taken(told: &Fence) -> bool {
    matches!(told, Fence::Taken { .. })
}

/// Far longer than a takeover.
const LONG: Duration = Duration::from_secs(900);

#[tokio::test(start_paused = true)]
async fn a_fence_that_is_not_to_be_had_for_longer_than_a_takeover_is_told_with_whose_it_is() {
    let (mut exclusive, broker) = publisher();
    let told = told_of_fence(&mut exclusive, broker, LONG, |_| closed(405)).await;
    let [Fence::Busy { .. }, Fence::Taken { by: FenceOwner::Connection, for_at_least, .. }, again @ ..] =
        &told[..]
    else {
        panic!("{told:?}")
    };
    assert!((Duration::from_secs(180)..Duration::from_secs(200)).contains(for_at_least), "{told:?}");
    assert_eq!(again.len(), 11, "once a minute: {again:?}");
    assert!(again.iter().all(is_taken), "{again:?}");
    let (mut shared, broker) = publisher();
    let answer = |passive| if passive { found(1, 2) } else { closed(405) };
    let told = told_of_fence(&mut shared, broker, LONG, answer).await;
    assert!(
        matches!(&told[..], [Fence::Busy { .. }, Fence::Taken { by, .. }, ..]
            if *by == FenceOwner::Nobody { consumers: 1, messages: 2 }),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_fence_that_is_free_by_the_time_of_the_look_is_declared() {
    let (mut publisher, broker) = publisher();
    let mut is_free = false;
    let answer = |passive| {
        is_free |= passive;
        match (is_free, passive) {
            (true, true) => closed(404),
            (true, false) => found(0, 0),
            (false, _) => closed(405),
        }
    };
    let told = told_of_fence(&mut publisher, broker, LONG, answer).await;
    assert!(matches!(&told[..], [Fence::Busy { .. }, Fence::Held]), "{told:?}");
}

/// Answer for a queue of a node that is down. RabbitMQ 4.3 refuses a declaration because of its owner, and does not
/// answer a look.
const NO_ANSWER: &str =
    "NOT_FOUND - failed to perform operation on queue 'outboxd.publisher.test' in vhost '/' due to timeout";

#[tokio::test(start_paused = true)]
async fn a_fence_whose_node_is_down_is_taken_and_not_free() {
    let (mut publisher, broker) = publisher();
    let answer = |passive| if passive { closed_saying(404, NO_ANSWER) } else { closed(405) };
    let told = told_of_fence(&mut publisher, broker, LONG, answer).await;
    let [Fence::Busy { .. }, Fence::Taken { by, for_at_least, text, .. }, ..] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!((*by, &**text), (FenceOwner::Unreachable, NO_ANSWER));
    assert!((Duration::from_secs(180)..Duration::from_secs(200)).contains(for_at_least), "{told:?}");
}

/// RabbitMQ looks 2000 times, 30 ms apart, for the process of such a queue, and answers nothing else on the channel
/// meanwhile.
#[tokio::test(start_paused = true)]
async fn a_look_that_is_not_answered_is_told_before_the_broker_gives_up() {
    let told = async |within| {
        let (mut publisher, broker) = publisher();
        told_of_fence_in_time(&mut publisher, broker, within, async |passive| {
            if !passive {
                return closed(405);
            }
            tokio::time::sleep(Duration::from_secs(60)).await;
            closed_saying(404, NO_ANSWER)
        })
        .await
    };
    let early = told(Duration::from_secs(195)).await;
    let [Fence::Busy { .. }, Fence::Taken { by: FenceOwner::Unreachable, for_at_least, text, .. }] =
        &early[..]
    else {
        panic!("{early:?}")
    };
    assert!(text.contains("not answered within 5 s"), "{text}");
    assert!(*for_at_least < Duration::from_secs(195), "{early:?}");
    let late = told(LONG).await;
    let [_, _, Fence::Taken { by: FenceOwner::Unreachable, text, .. }, ..] = &late[..] else {
        panic!("{late:?}")
    };
    assert_eq!(text, NO_ANSWER, "once the broker has said it");
}

#[tokio::test(start_paused = true)]
async fn a_look_at_a_fence_tells_a_queue_that_nobody_answers_for_from_none() {
    const FENCE: ChannelId = 3;
    for (answer, expected) in [
        (Some(closed_saying(404, "NOT_FOUND - no queue 'q' in vhost '/'")), Ok(None)),
        (Some(closed(405)), Ok(Some(FenceOwner::Connection))),
        (Some(closed_saying(404, NO_ANSWER)), Ok(Some(FenceOwner::Unreachable))),
        (None, Err(())),
    ] {
        let (ours, mut broker) = tokio::io::duplex(1 << 16);
        let mut connection = Connection::over(Box::new(ours), &[]);
        say(&mut broker, FENCE, opened()).await;
        if let Some(answer) = answer {
            say(&mut broker, FENCE, answer).await;
        }
        let owner = fence::owner(&mut connection, "q").await;
        assert_eq!(owner.as_ref().ok(), expected.as_ref().ok(), "{owner:?}");
        assert_eq!(connection.is_lost(), expected.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_makes_a_taken_fence_no_younger_unless_it_is_long_gone() {
    let memory = FenceMemory::default();
    let told = async |within| {
        let (mut publisher, broker) = publisher();
        publisher.fence_memory = memory.clone();
        told_of_fence(&mut publisher, broker, within, |_| closed(405)).await
    };
    let first = told(LONG).await;
    assert!(matches!(&first[..], [Fence::Busy { .. }, Fence::Taken { .. }, ..]), "{first:?}");
    let second = told(LONG).await;
    assert!(second.iter().all(is_taken) && !second.is_empty(), "{second:?}");
    tokio::time::sleep(LONG).await;
    let later = told(Duration::from_secs(60)).await;
    assert!(matches!(&later[..], [Fence::Busy { .. }]), "{later:?}");
}

#[tokio::test]
async fn an_answer_about_the_fence_that_nobody_asked_for_ends_the_connection() {
    let (mut publisher, mut broker) = publisher();
    publisher.fence("only.publisher");
    assert!(is_quiet(&mut publisher).await);
    say(&mut broker, 3, opened()).await;
    assert!(is_quiet(&mut publisher).await);
    say(&mut broker, 3, opened()).await;
    let told = next(&mut publisher).await;
    assert!(matches!(told, Err(BrokerError::Lost { .. })), "{told:?}");
}

/// Only the first refusal is reported, and the next request needs no other event.
#[tokio::test(start_paused = true)]
async fn a_fence_that_another_has_is_asked_for_again_and_again() {
    let (mut publisher, broker) = publisher();
    let mut refusals = 0;
    let answer = |_| {
        refusals += 1;
        if refusals <= 3 { closed(405) } else { found(0, 0) }
    };
    let told = told_of_fence(&mut publisher, broker, Duration::from_secs(60), answer).await;
    assert!(matches!(&told[..], [Fence::Busy { .. }, Fence::Held]), "{told:?}");
}

/// Sends a `basic.return` with this text in the identifying header.
async fn hand_back(broker: &mut (impl AsyncWrite + Unpin), identity: &str) {
    use amq_protocol::{
        frame::AMQPContentHeader,
        types::{AMQPValue, FieldTable},
    };
    let mut link = Link::new(Box::new(tokio::io::empty()));
    let returned = basic::Return {
        reply_code: 312,
        reply_text: "NO_ROUTE".into(),
        exchange: "known".into(),
        routing_key: "".into(),
    };
    let method = AMQPClass::Basic(basic::AMQPMethod::Return(returned));
    link.put(&AMQPFrame::Method(MESSAGES, method)).unwrap();
    let mut headers = FieldTable::default();
    headers.insert(HEADER.into(), AMQPValue::LongString(identity.into()));
    let properties = basic::AMQPProperties::default().with_headers(headers);
    let header = AMQPContentHeader { class_id: 60, body_size: 0, properties };
    link.put(&AMQPFrame::Header(MESSAGES, header)).unwrap();
    broker.write_all(link.output()).await.unwrap();
}

#[tokio::test]
async fn a_message_that_comes_back_is_known_by_its_header_and_one_that_is_not_known_ends_the_connection() {
    let (mut publisher, mut broker) = publisher();
    for number in 1..=2 {
        publisher.publish(PublishTag(number), message(number, "known"));
    }
    assert!(is_quiet(&mut publisher).await);
    hand_back(&mut broker, "2").await;
    confirm(&mut broker, 1).await;
    confirm(&mut broker, 2).await;
    let PublisherEvent::Outcomes(told) = next(&mut publisher).await.unwrap() else { panic!("no outcomes") };
    let returned = Outcome::Returned { reply_code: 312, reply_text: "NO_ROUTE".to_owned() };
    assert_eq!(told, [(PublishTag(1), Outcome::Confirmed), (PublishTag(2), returned)]);
    publisher.publish(PublishTag(3), message(3, "known"));
    assert!(is_quiet(&mut publisher).await);
    hand_back(&mut broker, "9").await;
    let error = next(&mut publisher).await.unwrap_err();
    assert!(matches!(error, BrokerError::UnexpectedReturn { .. }), "{error}");
    assert!(error.to_string().contains("exchange 'known', number '9'"), "{error}");
}
