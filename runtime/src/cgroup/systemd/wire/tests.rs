//! Messages there and back, and damaged ones.

use super::*;
use proptest::prelude::*;

fn signal() -> Message {
    let mut body = Writer::default();
    body.u32(7).text("/job/7").text("a.scope").text("done");
    Message {
        path: "/p".into(),
        interface: "i.f".into(),
        member: "JobRemoved".into(),
        signature: "uoss".into(),
        body: body.finish(),
        ..Message::new(Kind::Signal, 3)
    }
}

#[test]
fn a_call_is_laid_out_as_the_specification_says() {
    let call = Message {
        path: "/o".into(),
        member: "Hi".into(),
        signature: "s".into(),
        body: Writer::default().text("x").bytes.clone(),
        ..Message::new(Kind::Call, 1)
    };
    let expected: &[u8] = &[
        b'l', 1, 0, 1, 6, 0, 0, 0, 1, 0, 0, 0, 39, 0, 0, 0, // fixed part: 39 bytes of fields
        1, 1, b'o', 0, 2, 0, 0, 0, b'/', b'o', 0, 0, 0, 0, 0, 0, // path
        3, 1, b's', 0, 2, 0, 0, 0, b'H', b'i', 0, 0, 0, 0, 0, 0, // member
        8, 1, b'g', 0, 1, b's', 0, 0, // signature, and padding to 8
        2, 0, 0, 0, // a placeholder that is replaced below
    ];
    let mut expected = expected.to_vec();
    expected.truncate(expected.len() - 4);
    expected.extend([1, 0, 0, 0, b'x', 0]);
    assert_eq!(call.encode(), expected);
}

#[test]
fn properties_are_laid_out_as_the_specification_says() {
    let mut body = Writer::default();
    body.properties(&[("A", Value::U64(5)), ("B", Value::Numbers(vec![9]))]);
    let expected: &[u8] = &[
        44, 0, 0, 0, 0, 0, 0, 0, // length without the padding
        1, 0, 0, 0, b'A', 0, 1, b't', 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, //
        1, 0, 0, 0, b'B', 0, 2, b'a', b'u', 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0,
    ];
    assert_eq!(body.finish(), expected);
}

#[test]
fn what_was_written_is_read_again() {
    let signal = signal();
    assert_eq!(Message::parse(&signal.encode()), Some(signal.clone()));
    assert_eq!(signal.texts(), ["/job/7", "a.scope", "done"]);
}

#[test]
fn the_other_byte_order_is_read() {
    let bytes = [
        b'B', 2, 0, 1, 0, 0, 0, 6, 0, 0, 0, 9, 0, 0, 0,
        15, // a return with 15 bytes of fields
        5, 1, b'u', 0, 0, 0, 0, 4, // reply to 4
        8, 1, b'g', 0, 1, b's', 0, 0, // signature, padding
        0, 0, 0, 1, b'x', 0,
    ];
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.serial, message.reply_to), (9, 4));
    assert_eq!(message.texts(), ["x"]);
}

#[test]
fn a_length_that_no_message_has_is_refused_before_anything_is_allocated() {
    let mut bytes: [u8; FIXED] = signal().encode()[..FIXED].try_into().unwrap();
    assert!(Message::rest(&bytes).is_some());
    bytes[4..8].copy_from_slice(&(1u32 << 30).to_le_bytes());
    assert_eq!(Message::rest(&bytes), None);
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(Message::parse(&bytes).map(|message| message.texts()));
    }

    #[test]
    fn damaged_messages_do_not_make_the_reader_panic(
        at in 0usize..200, byte: u8, other in 0usize..200, another: u8, cut in 0usize..200,
    ) {
        let mut bytes = signal().encode();
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes[other % length] = another;
        drop(Message::parse(&bytes).map(|message| message.texts()));
        drop(Message::parse(&bytes[..cut % length]));
    }
}
