//! Any bytes in place of a message's properties: lapin gets a message with the same body, and with the properties if its codec
//! reads them, else with a reason.

use amq_protocol::frame::{AMQPFrame, parsing::parse_frame};
use amqp_publisher::frame::{HEADER, check};
use bytes::BytesMut;
use chassis::consumer::guard::{Guard, InHand};

use super::amqp_frames::is_marked;

/// Longer than any input, so that every content header fits into a frame.
const FRAME_BYTES_MAX: usize = 32 << 10;

/// Uses the input as flags and properties in a content header, after the delivery and before the body.
pub fn holds(input: &[u8]) {
    if input.len() < 2 || input.len() > 20_000 {
        return;
    }
    let payload = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4][..], input].concat();
    let delivery = frame(1, b"\0\x3c\0\x3c\x03tag\0\0\0\0\0\0\0\x01\0\0\x03key");
    let stream = [delivery, frame(HEADER, &payload), frame(3, b"body")].concat();
    let mut guard = Guard::new(FRAME_BYTES_MAX, 1, InHand::default());
    let (mut bytes, mut passed) = (BytesMut::from(&stream[..]), BytesMut::new());
    guard.pass(&mut bytes, &mut passed).expect("one message ends no connection");
    assert!(bytes.is_empty());

    let (rest, _) = parse_frame(&passed[..]).expect("the delivery");
    let (rest, content) = parse_frame(rest).expect("the content header");
    let (rest, body) = parse_frame(rest).expect("the body");
    assert!(rest.is_empty());
    assert_eq!(body, AMQPFrame::Body(1, b"body".to_vec()));
    let AMQPFrame::Header(1, content) = content else { panic!("{content:?}") };
    assert_eq!((content.class_id, content.body_size), (60, 4));
    match check(HEADER, &payload) {
        Ok(()) => assert_eq!(&passed[..], &stream[..], "what can be read is not touched"),
        Err(_) => assert!(is_marked(&content.properties), "{content:?}"),
    }
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("no input is so long").to_be_bytes();
    [&[kind, 0, 1][..], &length, payload, &[0xCE]].concat()
}
