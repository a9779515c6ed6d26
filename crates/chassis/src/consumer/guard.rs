//! Guard between the broker and lapin: passes only frames that lapin's codec can read. Pure.
//!
//! Anybody may publish a message that the codec cannot read. Such a message would end lapin's thread (tables nested
//! too deep) or its connection (text that is not UTF-8, headers longer than a frame), and return for ever. The guard
//! replaces it by one that says why, see `readable`. Frames that only a faulty broker sends end the connection.
//!
//! The guard also limits what lapin keeps without a limit: deliveries, returned messages, and calls that expect an
//! answer.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use amqp_publisher::frame::{
    self, DELIVER, FRAME_BYTES_MIN, FRAME_END, GET_OK, Head, RETURN, TUNE, Unreadable, Walk, Walked, not_amqp,
};
use bytes::{BufMut, BytesMut};

use super::readable;

const ACK: (u16, u16) = (60, 80);
const NACK: (u16, u16) = (60, 120);
/// Longest body that RabbitMQ accepts, whatever its `max_message_size`.
const BODY_BYTES_MAX: u64 = 512 << 20;
/// Allowed deliveries beyond twice the prefetch. After a network partition a quorum queue takes back a client's
/// messages and delivers as many again while the client still holds the old ones. With a prefetch of 1 several
/// partitions may pass before a slow message is acknowledged.
const DELIVERIES_SPARE: u32 = 8;
/// Class and method of `basic.cancel`, by which the broker ends a consumer.
const CANCEL: (u16, u16) = (60, 30);

/// Number of unacknowledged deliveries. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct InHand(Arc<AtomicU32>);

impl InHand {
    /// Counts an acknowledgement that is about to be sent.
    pub fn settled(&self) {
        // The count never falls below zero.
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| count.checked_sub(1));
    }

    fn delivered(&self) -> u32 {
        self.0.fetch_add(1, Ordering::AcqRel)
    }
}

/// Guard of one connection.
#[derive(Debug)]
pub struct Guard {
    /// Frames up to the requested size, until the broker sets a smaller one. lapin refuses longer ones.
    walk: Walk,
    /// Most unacknowledged deliveries.
    deliveries_max: u32,
    in_hand: InHand,
    /// Deliveries by channel whose content header is still to come, with the reason why they are unreadable.
    unreadable: BTreeMap<u16, Unreadable>,
    /// Set if a message was returned and not confirmed yet.
    has_returned: bool,
    /// Set if the broker ended the consumer.
    has_cancelled: bool,
}

impl Guard {
    /// Creates a guard for a connection with frames of at most `frame_bytes_max` bytes and `prefetch` unacknowledged
    /// messages. Twice as many, and a few more, are allowed.
    pub fn new(frame_bytes_max: usize, prefetch: u16, in_hand: InHand) -> Self {
        Self {
            walk: Walk::new(frame_bytes_max),
            deliveries_max: 2 * u32::from(prefetch) + DELIVERIES_SPARE,
            in_hand,
            unreadable: BTreeMap::new(),
            has_returned: false,
            has_cancelled: false,
        }
    }

    /// Moves every complete frame of `input` to `output`, or a replacement.
    ///
    /// # Errors
    ///
    /// [`io::Error`] when the broker violates the protocol. Frames before the violation are in `output`.
    pub fn pass(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> io::Result<()> {
        while let Some(walked) = self.walk.next(input)? {
            self.pass_one(walked, output)?;
        }
        Ok(())
    }

    fn pass_one(&mut self, walked: Walked, output: &mut BytesMut) -> io::Result<()> {
        let (head, payload) = (walked.head, walked.payload()?);
        if head.kind == frame::HEADER && frame::body_size(payload) > BODY_BYTES_MAX {
            return Err(not_amqp(format!("a message of more than {BODY_BYTES_MAX} bytes")));
        }
        if !walked.is_whole() {
            let why = format!(
                "its properties and headers take {} bytes, more than the {} of a frame of this connection",
                head.length,
                self.walk.frame_bytes_max()
            );
            return self.replace_content_header(head, payload, &why, output);
        }
        match (head.kind, frame::check(head.kind, payload)) {
            (frame::METHOD, Ok(())) => {
                self.allow(frame::method_of(payload))?;
                self.tune(payload);
                output.unsplit(walked.bytes);
            }
            (frame::METHOD, Err(why)) => {
                let replaced = readable::delivery(payload)
                    .filter(|replaced| frame::check(frame::METHOD, replaced).is_ok())
                    .ok_or_else(|| head.unreadable(&why))?;
                self.allow(frame::method_of(payload))?;
                self.unreadable.insert(head.channel, why);
                put_frame(head, &replaced, output);
            }
            (frame::HEADER, checked) => match self.unreadable.remove(&head.channel).or(checked.err()) {
                None => output.unsplit(walked.bytes),
                Some(why) => self.replace_content_header(head, payload, &why.to_string(), output)?,
            },
            _ => output.unsplit(walked.bytes),
        }
        Ok(())
    }

    fn replace_content_header(
        &mut self,
        head: Head,
        payload: &[u8],
        why: &str,
        output: &mut BytesMut,
    ) -> io::Result<()> {
        self.unreadable.remove(&head.channel);
        let why = format!("{why}; its properties are here as far as they can be read; correct its publisher");
        let replaced = readable::content_header(payload, &why)
            .ok_or_else(|| head.unreadable(&Unreadable::Malformed("content header")))?;
        put_frame(head, &replaced, output);
        Ok(())
    }

    /// Applies the lower limit, as lapin does with `connection.tune`; 0 is none.
    fn tune(&mut self, method: &[u8]) {
        let offered = method.get(6..).and_then(|rest| rest.first_chunk());
        if let Some(offered) = offered.filter(|_| frame::method_of(method) == Some(TUNE))
            && let Ok(frame_bytes_max @ 1..) = usize::try_from(u32::from_be_bytes(*offered))
        {
            self.walk.limit(self.walk.frame_bytes_max().min(frame_bytes_max.max(FRAME_BYTES_MIN)));
        }
    }

    /// Refuses methods that a correct broker does not send and that lapin would keep.
    fn allow(&mut self, method: Option<(u16, u16)>) -> io::Result<()> {
        match method {
            Some(DELIVER) if self.in_hand.delivered() >= self.deliveries_max => Err(not_amqp(format!(
                "the broker delivers more than {} messages before one is acknowledged",
                self.deliveries_max
            ))),
            // Messages are published one at a time, each after the confirm of the one before.
            Some(RETURN) if std::mem::replace(&mut self.has_returned, true) => {
                Err(not_amqp("the broker returns more messages than were published"))
            }
            Some(ACK | NACK) => {
                self.has_returned = false;
                Ok(())
            }
            Some(CANCEL) if std::mem::replace(&mut self.has_cancelled, true) => {
                Err(not_amqp("the broker ends a consumer that it has ended before"))
            }
            Some(DELIVER | RETURN | CANCEL | GET_OK) | None | Some(_) => Ok(()),
        }
    }
}

fn put_frame(head: Head, payload: &[u8], output: &mut BytesMut) {
    output.put_u8(head.kind);
    output.put_u16(head.channel);
    output.put_u32(payload.len() as u32);
    output.extend_from_slice(payload);
    output.put_u8(FRAME_END);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use amq_protocol::{
        frame::{AMQPFrame, parsing::parse_frame},
        protocol::{AMQPClass, basic},
    };

    use super::{super::readable::UNREADABLE_HEADER, *};

    const FRAME_BYTES_MAX: usize = 4096;

    fn guard(prefetch: u16) -> Guard {
        Guard::new(FRAME_BYTES_MAX, prefetch, InHand::default())
    }

    fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = BytesMut::new();
        put_frame(Head { kind, channel, length: 0 }, payload, &mut frame);
        frame.to_vec()
    }

    fn deliver(channel: u16, routing_key: &[u8]) -> Vec<u8> {
        let length = [u8::try_from(routing_key.len()).unwrap()];
        let payload = [&[0, 60, 0, 60][..], b"\x03tag", &[0; 8], &[0, 0], &length, routing_key].concat();
        frame(1, channel, &payload)
    }

    fn content(channel: u16, body_size: u64, flags: u16, properties: &[u8]) -> Vec<u8> {
        let payload = [&[0, 60, 0, 0][..], &body_size.to_be_bytes(), &flags.to_be_bytes(), properties];
        frame(2, channel, &payload.concat())
    }

    /// Feeds the guard pieces of this size, and returns the frames as lapin's codec reads them, or the error.
    fn through(guard: &mut Guard, bytes: &[u8], piece: usize) -> Result<Vec<AMQPFrame>, String> {
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        for piece in bytes.chunks(piece) {
            input.extend_from_slice(piece);
            guard.pass(&mut input, &mut output).map_err(|error| error.to_string())?;
        }
        let mut frames = Vec::new();
        let mut rest = &output[..];
        while !rest.is_empty() {
            let length = Head::peek(rest).unwrap().unwrap().length;
            assert!(length <= guard.walk.frame_bytes_max(), "lapin refuses a frame of {length} bytes");
            let (left, frame) = parse_frame(rest).unwrap();
            (rest, frames) = (left, [frames, vec![frame]].concat());
        }
        Ok(frames)
    }

    fn properties(frame: &AMQPFrame) -> &basic::AMQPProperties {
        let AMQPFrame::Header(_, header) = frame else { panic!("{frame:?}") };
        &header.properties
    }

    fn header(frame: &AMQPFrame, name: &str) -> Option<String> {
        let headers = properties(frame).headers().as_ref()?.inner();
        headers.get(name)?.as_long_string().map(ToString::to_string)
    }

    #[test]
    fn what_can_be_read_passes_byte_for_byte_in_any_pieces() {
        let bytes = [
            deliver(1, b"key"),
            content(1, 3, 1 << 7, b"\x02id"),
            frame(3, 1, b"abc"),
            frame(8, 0, b""),
            frame(1, 0, b"\0\x0a\0\x3c\x03why"),
        ]
        .concat();
        for piece in [1, 7, bytes.len()] {
            let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
            let mut guard = guard(1);
            for piece in bytes.chunks(piece) {
                input.extend_from_slice(piece);
                guard.pass(&mut input, &mut output).unwrap();
            }
            assert_eq!((&output[..], input.len()), (&bytes[..], 0));
        }
    }

    #[test]
    fn a_content_header_that_cannot_be_read_is_replaced_by_one_that_says_why() {
        // Headers a, b (nested too deep) and a name that is not UTF-8; then message_id and a timestamp.
        let deep = (0..100).fold(Vec::new(), |value, _| {
            [b"A", &u32::try_from(value.len()).unwrap().to_be_bytes()[..], &value].concat()
        });
        let entries = [b"\x01aS\0\0\0\x01x\x01b", &deep[..], b"\x02\xffzI\0\0\0\x07"].concat();
        let table = [&u32::try_from(entries.len()).unwrap().to_be_bytes()[..], &entries].concat();
        let properties_bytes = [&table[..], b"\x03i\xffd", &[0, 0, 0, 0, 0, 0, 0, 9]].concat();
        let flags = 1 << 13 | 1 << 7 | 1 << 6;
        let bytes = [deliver(1, b""), content(1, 3, flags, &properties_bytes), frame(3, 1, b"abc")].concat();
        for piece in [1, bytes.len()] {
            let frames = through(&mut guard(1), &bytes, piece).unwrap();
            let [_, content, body] = &frames[..] else { panic!("{frames:?}") };
            let reason = header(content, UNREADABLE_HEADER).unwrap();
            assert!(reason.starts_with("the headers are nested deeper than 32 levels; "), "{reason}");
            assert_eq!(header(content, "a").as_deref(), Some("x"));
            assert!(header(content, "b").unwrap().starts_with("left out: "), "{content:?}");
            let names = properties(content).headers().as_ref().unwrap().inner();
            assert!(names.contains_key("\\xFFz"), "{names:?}");
            assert_eq!(properties(content).message_id().as_ref().unwrap().as_str(), "i\\xFFd");
            assert_eq!(*properties(content).timestamp(), Some(9));
            assert_eq!(*body, AMQPFrame::Body(1, b"abc".to_vec()));
        }
    }

    #[test]
    fn a_routing_key_that_is_no_utf8_marks_the_message_of_its_channel() {
        let bytes = [
            deliver(1, b"\xff"),
            deliver(2, b"key"),
            content(2, 0, 0, b""),
            content(1, 0, 1 << 7, b"\x02id"),
            deliver(1, b"key"),
            content(1, 0, 0, b""),
        ]
        .concat();
        let frames = through(&mut guard(3), &bytes, 5).unwrap();
        let AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Deliver(delivery))) = &frames[0] else {
            panic!("{frames:?}")
        };
        assert_eq!(delivery.routing_key.as_str(), "\\xFF");
        assert_eq!(header(&frames[2], UNREADABLE_HEADER), None);
        let reason = header(&frames[3], UNREADABLE_HEADER).unwrap();
        assert!(reason.starts_with("the routing key is not UTF-8"), "{reason}");
        assert_eq!(properties(&frames[3]).message_id().as_ref().unwrap().as_str(), "id");
        assert_eq!(header(&frames[5], UNREADABLE_HEADER), None);
    }

    #[test]
    fn headers_longer_than_a_frame_are_cut_down_to_one() {
        let entry = [b"\x02h1S\0\0\x04\0", &[b'x'; 1024][..]].concat();
        let table =
            [&u32::try_from(entry.len() * 100).unwrap().to_be_bytes()[..], &entry.repeat(100)].concat();
        let bytes = [deliver(1, b""), content(1, 1, 1 << 13, &table), frame(3, 1, b"x")].concat();
        for piece in [1, 1000, bytes.len()] {
            let frames = through(&mut guard(1), &bytes, piece).unwrap();
            let reason = header(&frames[1], UNREADABLE_HEADER).unwrap();
            assert!(reason.contains("more than the 4096 of a frame"), "{reason}");
            assert_eq!(header(&frames[1], "h1").unwrap().len(), 1024);
            assert_eq!(frames[2], AMQPFrame::Body(1, b"x".to_vec()));
        }
        let body = frame(3, 1, &[0; FRAME_BYTES_MAX]);
        assert!(through(&mut guard(1), &body, 1000).unwrap_err().contains("a frame of 4104 bytes"));
    }

    #[test]
    fn a_content_header_that_is_cut_down_fills_a_frame_and_is_no_byte_longer() {
        let mut longest = 0;
        // Headers of three bytes each, after a content type whose length changes the room for them.
        let entries = b"\x01aV".repeat(3000);
        let table = [&u32::try_from(entries.len()).unwrap().to_be_bytes()[..], &entries].concat();
        for content_type in [&b"\x01a"[..], b"\x02ab", b"\x03abc"] {
            let content = content(1, 0, 1 << 15 | 1 << 13, &[content_type, &table].concat());
            let (mut input, mut output) = (BytesMut::from(&content[..]), BytesMut::new());
            guard(1).pass(&mut input, &mut output).unwrap();
            let length = Head::peek(&output).unwrap().unwrap().length;
            assert_eq!((output.len(), input.len()), (length, 0));
            longest = longest.max(length);
        }
        assert_eq!(longest, FRAME_BYTES_MAX);
    }

    #[test]
    fn frames_are_as_long_as_lapin_and_the_broker_agree_on() {
        let entry = [b"\x01hS\0\0\x27\x10", &[b'x'; 10_000][..]].concat();
        let table = [&u32::try_from(entry.len()).unwrap().to_be_bytes()[..], &entry].concat();
        let delivery = [deliver(1, b""), content(1, 0, 1 << 13, &table)].concat();
        for (offered, expected) in [(8192_u32, 8192), (1, FRAME_BYTES_MIN), (0, 131_072), (1 << 20, 131_072)]
        {
            let tune = [&b"\0\x0a\0\x1e\x07\xff"[..], &offered.to_be_bytes(), &[0, 60]].concat();
            let mut guard = Guard::new(131_072, 1, InHand::default());
            let frames = through(&mut guard, &[frame(1, 0, &tune), delivery.clone()].concat(), 1000).unwrap();
            let reason = header(&frames[2], UNREADABLE_HEADER);
            let expected = (expected < 10_000).then(|| format!("more than the {expected} of a frame"));
            assert_eq!(reason.is_some(), expected.is_some(), "{offered}");
            assert!(reason.unwrap_or_default().contains(&expected.unwrap_or_default()), "{offered}");
        }
    }

    #[test]
    fn a_header_of_the_name_that_marks_an_unreadable_message_counts_only_if_it_is_ours() {
        let name = UNREADABLE_HEADER.as_bytes();
        let forged = [&[u8::try_from(name.len()).unwrap()], name, b"S\0\0\0\x06forged\x01\xffV"].concat();
        let table = [&u32::try_from(forged.len()).unwrap().to_be_bytes()[..], &forged].concat();
        let bytes = [deliver(1, b""), content(1, 0, 1 << 13, &table)].concat();
        let frames = through(&mut guard(1), &bytes, 100).unwrap();
        let reason = header(&frames[1], UNREADABLE_HEADER).unwrap();
        assert!(reason.starts_with("the name of a header is not UTF-8"), "{reason}");
    }

    #[test]
    fn a_refusal_whose_text_is_cut_in_a_character_stays_a_refusal() {
        for (channel, numbers) in [(0, b"\0\x0a\0\x32"), (1, b"\0\x14\0\x28")] {
            let close = [&numbers[..], b"\x01\x94\x0bqueue '\xc3...", &[0; 4]].concat();
            let frames = through(&mut guard(1), &frame(1, channel, &close), 3).unwrap();
            assert!(format!("{frames:?}").contains("queue '?..."), "{frames:?}");
        }
        let blocked = through(&mut guard(1), &frame(1, 0, b"\0\x0a\0\x3c\x01\xe4"), 3).unwrap();
        assert!(format!("{blocked:?}").contains("\"?\""), "{blocked:?}");
    }

    #[test]
    fn a_broker_is_held_to_what_was_asked_for() {
        let empty = content(1, 0, 0, b"");
        let delivery = [deliver(1, b""), empty.clone()].concat();
        assert!(through(&mut guard(2), &delivery.repeat(12), 100).is_ok());
        let error = through(&mut guard(2), &delivery.repeat(13), 100).unwrap_err();
        assert!(error.contains("delivers more than 12 messages"), "{error}");
        let in_hand = InHand::default();
        let mut settling = Guard::new(FRAME_BYTES_MAX, 2, in_hand.clone());
        for _ in 0..30 {
            through(&mut settling, &delivery, 100).unwrap();
            in_hand.settled();
        }
        let returned = [frame(1, 1, b"\0\x3c\0\x32\x01\x38\0\0\0"), empty].concat();
        let confirmed = frame(1, 1, b"\0\x3c\0\x50\0\0\0\0\0\0\0\x01\0");
        through(&mut guard(0), &[returned.clone(), confirmed.clone(), returned.clone()].concat(), 100)
            .unwrap();
        let error = through(&mut guard(0), &returned.repeat(2), 100).unwrap_err();
        assert!(error.contains("returns more messages"), "{error}");
        let cancelled = frame(1, 1, b"\0\x3c\0\x1e\x03tag\0");
        assert!(through(&mut guard(0), &cancelled, 100).is_ok());
        let error = through(&mut guard(0), &cancelled.repeat(2), 100).unwrap_err();
        assert!(error.contains("ended before"), "{error}");
        let endless = content(1, u64::MAX, 0, b"");
        let error = through(&mut guard(1), &endless, 100).unwrap_err();
        assert!(error.contains("more than 536870912 bytes"), "{error}");
        for (method, expected) in [
            (&b"\0\x14\0\x14\x01"[..], "no broker sends method 20.20"),
            (b"\0\x3c\0\x3c\x01\xff", "the consumer tag is not UTF-8"),
        ] {
            let error = through(&mut guard(1), &frame(1, 1, method), 100).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
