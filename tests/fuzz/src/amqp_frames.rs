//! Any bytes from a broker, in any pieces: lapin's codec reads every frame that the guard passes on, with tables nested
//! [`NESTING_MAX`] deep at most. A refused frame ends the connection with a reason. The guard buffers less than a frame.

use amq_protocol::{
    frame::{AMQPFrame, parsing::parse_frame},
    protocol::{AMQPClass, connection},
    types::{AMQPValue, FieldTable},
};
use amqp_publisher::frame::{HEADER, Head, METHOD, NESTING_MAX, Unreadable, check};
use bytes::BytesMut;
use chassis::consumer::{
    guard::{Guard, InHand},
    readable::UNREADABLE_HEADER,
};

const FRAME_BYTES_MAX: usize = 4096;
const PREFETCH: u16 = 3;

/// Uses the first byte as the size of the pieces, the rest as the broker's bytes.
pub fn holds(input: &[u8]) {
    let Some((&piece, stream)) = input.split_first() else { return };
    let piece = usize::from(piece) + 1;
    let (passed, refused) = through(stream, piece);
    let (again, refused_again) = through(stream, stream.len().max(1));
    assert_eq!((&passed, &refused), (&again, &refused_again), "pieces make no difference");
    let frames = read(&passed);
    assert!(frames.len() <= stream.len() / 8 + 1, "no frame of its own making");
    for frame in frames {
        if let AMQPFrame::Header(_, header) = frame {
            assert!(header.properties.headers().as_ref().is_none_or(|table| depth_of(table) <= NESTING_MAX));
        } else if let AMQPFrame::Method(_, AMQPClass::Connection(connection::AMQPMethod::Start(start))) =
            frame
        {
            assert!(depth_of(&start.server_properties) <= NESTING_MAX);
        }
    }
    whole_payloads(stream);
}

/// Bytes that the guard passes on, and the reason when it ends the connection.
fn through(stream: &[u8], piece: usize) -> (BytesMut, Option<String>) {
    let in_hand = InHand::default();
    let mut guard = Guard::new(FRAME_BYTES_MAX, PREFETCH, in_hand);
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    for piece in stream.chunks(piece) {
        input.extend_from_slice(piece);
        if let Err(error) = guard.pass(&mut input, &mut output) {
            assert!(!error.to_string().is_empty());
            return (output, Some(error.to_string()));
        }
        assert!(input.len() < FRAME_BYTES_MAX, "{} bytes are kept", input.len());
    }
    (output, None)
}

/// Reads frames like lapin. Every frame must be valid.
fn read(passed: &[u8]) -> Vec<AMQPFrame> {
    let (mut rest, mut frames) = (passed, Vec::new());
    while !rest.is_empty() {
        assert!(Head::peek(rest).unwrap().unwrap().length <= FRAME_BYTES_MAX);
        let (left, frame) = parse_frame(rest).expect("a frame that lapin's codec reads");
        frames.push(frame);
        rest = left;
    }
    frames
}

/// Uses the input as the payload of one method and of one content header. The check and the codec must agree, except where the
/// check knows better.
fn whole_payloads(payload: &[u8]) {
    for kind in [METHOD, HEADER] {
        let length = u32::try_from(payload.len()).expect("no input is so long").to_be_bytes();
        let frame = [&[kind, 0, 1][..], &length, payload, &[0xCE]].concat();
        match check(kind, payload) {
            Ok(()) => assert!(parse_frame(&frame[..]).is_ok(), "it passes, and cannot be read"),
            // The codec must not see these: its recursion would overflow the stack.
            Err(Unreadable::TooDeep(_) | Unreadable::UnknownMethod { .. }) => {}
            Err(why) => {
                assert!(!why.to_string().is_empty());
                assert!(
                    shallow(payload).is_none_or(|()| parse_frame(&frame[..]).is_err()),
                    "refused for nothing: {why}"
                );
            }
        }
    }
}

/// Returns `Some` if the payload has too few containers to overflow any stack.
fn shallow(payload: &[u8]) -> Option<()> {
    (payload.iter().filter(|byte| matches!(byte, b'A' | b'F')).count() < 100).then_some(())
}

/// Levels of a table, including the table itself.
fn depth_of(table: &FieldTable) -> usize {
    1 + table.inner().values().map(depth_of_value).max().unwrap_or_default()
}

fn depth_of_value(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::FieldTable(table) => depth_of(table),
        AMQPValue::FieldArray(array) => {
            1 + array.as_slice().iter().map(depth_of_value).max().unwrap_or_default()
        }
        _ => 0,
    }
}

/// Tells whether a message is marked as unreadable.
pub(crate) fn is_marked(properties: &amq_protocol::protocol::basic::AMQPProperties) -> bool {
    properties.headers().as_ref().is_some_and(|headers| headers.contains_key(UNREADABLE_HEADER))
}
