//! Frames as a hostile publisher shapes them: after `sanitize`, lapin's own parser reads them however deep they are, and refuses nothing for the
//! bytes of a text. Without it, the first of these ends the process and the second the connection.

use amq_protocol::frame::{AMQPFrame, parse_frame};
use payonce::broker::frame::{DEPTH_MAX, sanitize};
use proptest::{collection::vec, prelude::*};

const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;

fn frame(frame_type: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![frame_type, 0, 1];
    frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend(payload);
    frame.push(0xce);
    frame
}

fn sanitized(frame_type: u8, payload: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    sanitize(frame_type, &mut payload);
    payload
}

fn short(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// The properties of a message that has headers only.
fn headers(table: &[u8]) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    payload.extend(0x2000_u16.to_be_bytes());
    payload.extend(table);
    payload
}

/// Tables in tables, so many levels deep; an array for each second level where asked for.
fn nested(levels: usize, with_arrays: bool) -> Vec<u8> {
    let mut inner: Vec<u8> = Vec::new();
    for level in 0..levels {
        let is_array = with_arrays && level % 2 == 0;
        let around_is_array = with_arrays && level + 1 < levels && (level + 1) % 2 == 0;
        let value = [vec![if is_array { b'A' } else { b'F' }], long(&inner)].concat();
        inner = if around_is_array { value } else { [short(b"n"), value].concat() };
    }
    long(&inner)
}

/// Reads it with the stack of a thread that asks for none, as lapin's reader is.
fn read(frame_type: u8, payload: &[u8]) -> Option<AMQPFrame> {
    let bytes = frame(frame_type, payload);
    std::thread::spawn(move || parse_frame(bytes.as_slice()).ok().map(|(_, frame)| frame)).join().unwrap()
}

/// A value of a header, as bytes.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        any::<u8>().prop_map(|byte| vec![b't', byte]),
        any::<u32>().prop_map(|number| [&[b'I'][..], &number.to_be_bytes()].concat()),
        any::<u64>().prop_map(|number| [&[b'T'][..], &number.to_be_bytes()].concat()),
        vec(any::<u8>(), 0..20).prop_map(|bytes| [vec![b'S'], long(&bytes)].concat()),
        vec(any::<u8>(), 0..20).prop_map(|bytes| [vec![b'x'], long(&bytes)].concat()),
        Just(vec![b'V']),
    ];
    leaf.prop_recursive(6, 40, 4, |value| {
        prop_oneof![
            vec(value.clone(), 0..4).prop_map(|values| [vec![b'A'], long(&values.concat())].concat()),
            vec((vec(any::<u8>(), 0..9), value), 0..4).prop_map(|pairs| [
                vec![b'F'],
                long(&table_of(&pairs))
            ]
            .concat()),
        ]
    })
}

fn table_of(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    pairs.iter().flat_map(|(name, value)| [short(name), value.clone()].concat()).collect()
}

#[test]
fn tables_of_any_depth_are_read() {
    for levels in [1, DEPTH_MAX - 1, DEPTH_MAX, DEPTH_MAX + 1, 500, 20_000] {
        for with_arrays in [false, true] {
            let payload = headers(&nested(levels, with_arrays));
            let harmless = sanitized(CONTENT_HEADER, &payload);
            assert!(read(CONTENT_HEADER, &harmless).is_some(), "{levels} levels are read");
            assert_eq!(
                harmless == payload,
                levels < DEPTH_MAX,
                "{levels} levels are changed only beyond the limit"
            );
        }
    }
}

#[test]
fn texts_that_are_not_utf_8_are_read_with_question_marks() {
    // content type, correlation id, app id.
    let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    payload.extend((0x8000_u16 | 0x0400 | 0x0008).to_be_bytes());
    for text in [&b"\xff\xfe"[..], b"\xc3", "grün".as_bytes()] {
        payload.extend(short(text));
    }
    assert_eq!(read(CONTENT_HEADER, &payload), None, "lapin's parser refuses it as it came");
    let Some(AMQPFrame::Header(_, header)) = read(CONTENT_HEADER, &sanitized(CONTENT_HEADER, &payload))
    else {
        panic!("it is no content header");
    };
    let texts =
        [header.properties.content_type(), header.properties.correlation_id(), header.properties.app_id()];
    assert_eq!(texts.map(|text| text.as_ref().unwrap().to_string()), ["??", "?", "grün"]);
}

#[test]
fn a_routing_key_that_is_not_utf_8_is_read() {
    // basic.deliver: consumer tag, delivery tag, redelivered, exchange, routing key.
    let head = [vec![0, 60, 0, 60], short(b"tag"), vec![0, 0, 0, 0, 0, 0, 0, 7, 0], short(b"ex")].concat();
    let payload = [head.clone(), short(b"a\xffb")].concat();
    assert_eq!(read(METHOD, &payload), None, "lapin's parser refuses it as it came");
    let harmless = sanitized(METHOD, &payload);
    assert_eq!(harmless, [head, short(b"a?b")].concat());
    assert!(matches!(read(METHOD, &harmless), Some(AMQPFrame::Method(..))));
}

proptest! {
    #[test]
    fn every_table_is_read_and_only_texts_change(
        pairs in vec((vec(any::<u8>(), 0..9), value()), 0..8),
    ) {
        let payload = headers(&long(&table_of(&pairs)));
        let harmless = sanitized(CONTENT_HEADER, &payload);
        prop_assert!(read(CONTENT_HEADER, &harmless).is_some());
        prop_assert_eq!(sanitized(CONTENT_HEADER, &harmless), harmless.clone(), "made harmless once is harmless");
        let changed = payload.iter().zip(&harmless).filter(|(before, now)| before != now);
        prop_assert!(changed.into_iter().all(|(before, now)| !before.is_ascii() && *now == b'?'));
    }

    #[test]
    fn any_bytes_are_walked_and_read_without_a_panic(
        frame_type in 0_u8..5,
        payload in vec(any::<u8>(), 0..300),
        levels in 0_usize..400,
    ) {
        let mut payload = [payload, nested(levels, true)].concat();
        let bytes = payload.len();
        sanitize(frame_type, &mut payload);
        prop_assert_eq!(payload.len(), bytes);
        drop(read(frame_type, &payload));
    }
}
