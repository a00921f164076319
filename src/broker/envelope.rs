//! What a message carries beside its body: routing key, properties and headers, as names and values that the rest of payonce can read.
//! Nothing of it is verified. What must not live here: what any of it means for money, and what is kept of it for how long.

use std::borrow::Cow;

use lapin::{
    protocol::BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use serde_json::{Map, Value, json};

use crate::signature::{self, Headers};

/// Bytes of JSON after which no further header of a message is kept.
pub const HEADERS_BYTES_MAX: usize = 16 * 1024;
/// Longest text of a header that is kept, in bytes; a longer one is cut. Eight signatures fit.
const VALUE_BYTES_MAX: usize = 2 * 1024;
/// Tables and arrays in one another that are read; what is nested deeper is left out.
const DEPTH_MAX: usize = 16;
/// Stands for what was left out.
const LEFT_OUT: &str = "…";
/// What a header costs in memory besides its texts, in bytes: two strings and a place in a tree.
const HEADER_BYTES: usize = 96;

/// Headers and properties that the broker writes or removes when a message dies or is delivered again: they differ between two deliveries
/// of one message.
const OF_THE_BROKER: [&str; 10] = [
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
    "x-delivery-count",
    "x-acquired-count",
    "expiration",
];

/// How CloudEvents' transports mark an attribute that travels as a header: AMQP 1.0 (two spellings), HTTP, Kafka.
const ATTRIBUTE_PREFIXES: [&str; 4] = ["cloudEvents:", "cloudEvents_", "ce-", "ce_"];

/// Why the broker took a message off the queue that it was published to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It was returned as often as `x-delivery-limit` allows.
    DeliveryLimit,
    /// It stayed longer than its time to live, or the queue's.
    Expired,
    /// The queue was full.
    Overflowed,
    /// A consumer refused it.
    Rejected,
}

/// All of a message but its body.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// What it was published with: the account id, by contract, but nobody has checked that.
    pub routing_key: String,
    properties: BasicProperties,
}

impl Envelope {
    /// `queue`: where the message was taken. A dead letter has that queue's name for a routing key; its own stands in `x-death`.
    pub(super) fn new(routing_key: &str, properties: BasicProperties, queue: &str) -> Self {
        let published_with = (routing_key == queue).then(|| last_death(&properties)).flatten();
        let published_with = published_with.and_then(|death| {
            let AMQPValue::FieldArray(keys) = death.inner().get("routing-keys")? else { return None };
            keys.as_slice().first()
        });
        let routing_key =
            published_with.map_or(routing_key.into(), |key| String::from_utf8_lossy(&text(key)).into_owned());
        Self { routing_key, properties }
    }

    /// What it takes in memory, in bytes, roughly.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let texts = self.texts().into_iter().filter_map(|(_, text)| Some(text.as_ref()?.as_str().len()));
        let headers = self.headers().map_or(0, |headers| table_bytes(headers, DEPTH_MAX));
        self.routing_key.len() + texts.sum::<usize>() + headers
    }

    /// `content_type`, where it is set.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.properties.content_type().as_ref().map(|text| text.as_str())
    }

    /// `content_encoding`, where it is set.
    #[must_use]
    pub fn content_encoding(&self) -> Option<&str> {
        self.properties.content_encoding().as_ref().map(|text| text.as_str())
    }

    /// A CloudEvents attribute that travels as a header (binary mode).
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<String> {
        let value = ATTRIBUTE_PREFIXES.iter().find_map(|prefix| self.header(&format!("{prefix}{name}")))?;
        String::from_utf8(text(value).into_owned()).ok()
    }

    /// Why it is a dead letter; `None` where the broker does not say so, or gives a reason that is not known.
    #[must_use]
    pub fn death(&self) -> Option<Death> {
        match &*text(last_death(&self.properties)?.inner().get("reason")?) {
            b"delivery_limit" => Some(Death::DeliveryLimit),
            b"expired" => Some(Death::Expired),
            b"maxlen" => Some(Death::Overflowed),
            b"rejected" => Some(Death::Rejected),
            _ => None,
        }
    }

    /// Its properties but for the headers, by name: those that are set.
    #[must_use]
    pub fn properties(&self) -> Map<String, Value> {
        let p = &self.properties;
        let texts = self.texts().into_iter();
        let texts = texts.filter_map(|(name, text)| Some((name, json!(text.as_ref()?.as_str()))));
        let numbers = [
            ("delivery_mode", p.delivery_mode().map(u64::from)),
            ("priority", p.priority().map(u64::from)),
            ("timestamp", *p.timestamp()),
        ];
        let numbers = numbers.into_iter().filter_map(|(name, number)| Some((name, json!(number?))));
        texts.chain(numbers).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Its headers by name, in at most [`HEADERS_BYTES_MAX`] of JSON: long texts are cut, and of too many headers the first are there.
    #[must_use]
    pub fn kept_headers(&self) -> Map<String, Value> {
        let mut kept = Map::new();
        let mut bytes = 0;
        for (name, value) in self.headers().into_iter().flatten() {
            let value = value_json(value, DEPTH_MAX, VALUE_BYTES_MAX);
            bytes += name.as_str().len() + value.to_string().len();
            if bytes > HEADERS_BYTES_MAX {
                let left = self.headers().map_or(0, |headers| headers.inner().len()) - kept.len();
                kept.insert(LEFT_OUT.to_owned(), json!(format!("{left} more headers, not kept")));
                break;
            }
            kept.insert(name.as_str().to_owned(), value);
        }
        kept
    }

    /// What tells this message from another with the same body: all of it that its publisher gave, in a form in which no two different
    /// ones are equal. It is self-delimiting: a body may follow.
    #[must_use]
    pub fn identity(&self) -> Vec<u8> {
        let mut properties = self.properties();
        let mut headers = self.headers().map_or_else(Map::new, |all| table_json(all, DEPTH_MAX, usize::MAX));
        properties.retain(|name, _| !OF_THE_BROKER.contains(&name.as_str()));
        headers.retain(|name, _| !OF_THE_BROKER.contains(&name.as_str()));
        json!([self.routing_key, properties, headers]).to_string().into_bytes()
    }

    /// The headers of a signature, of whatever type a client library gave them.
    pub(super) fn signature(&self) -> Headers {
        let header = |name: &str| self.header(name).map(text);
        Headers::received(
            header(signature::ID_HEADER).as_deref(),
            header(signature::TIMESTAMP_HEADER).as_deref(),
            header(signature::SIGNATURE_HEADER).as_deref(),
        )
    }

    /// A W3C `traceparent` header, as far as this version of it reads.
    pub(super) fn traceparent(&self) -> Option<[u8; 55]> {
        text(self.header("traceparent")?).get(..55)?.try_into().ok()
    }

    fn texts(&self) -> [(&'static str, &Option<ShortString>); 10] {
        let p = &self.properties;
        [
            ("content_type", p.content_type()),
            ("content_encoding", p.content_encoding()),
            ("correlation_id", p.correlation_id()),
            ("reply_to", p.reply_to()),
            ("expiration", p.expiration()),
            ("message_id", p.message_id()),
            ("type", p.kind()),
            ("user_id", p.user_id()),
            ("app_id", p.app_id()),
            ("cluster_id", p.cluster_id()),
        ]
    }

    fn headers(&self) -> Option<&FieldTable> {
        self.properties.headers().as_ref()
    }

    /// Names of headers are compared as HTTP does it, without case: gateways change it. Of several the one that is spelled so counts.
    fn header(&self, name: &str) -> Option<&AMQPValue> {
        let headers = self.headers()?.inner();
        headers.get(name).or_else(|| {
            headers
                .iter()
                .find(|(found, _)| found.as_str().eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
        })
    }
}

/// The last of a message's deaths, which the broker writes first.
fn last_death(properties: &BasicProperties) -> Option<&FieldTable> {
    let AMQPValue::FieldArray(deaths) = properties.headers().as_ref()?.inner().get("x-death")? else {
        return None;
    };
    let AMQPValue::FieldTable(death) = deaths.as_slice().first()? else { return None };
    Some(death)
}

/// A header's text. Which type a client library gives a text is its own affair: Java, Go and Python write bytes as a byte array. A number
/// that is given as one is written as one: for a timestamp that is no mistake.
fn text(value: &AMQPValue) -> Cow<'_, [u8]> {
    match value {
        AMQPValue::LongString(text) => Cow::Borrowed(text.as_bytes()),
        AMQPValue::ShortString(text) => Cow::Borrowed(text.as_str().as_bytes()),
        AMQPValue::ByteArray(bytes) => Cow::Borrowed(bytes.as_slice()),
        AMQPValue::LongInt(number) => Cow::Owned(number.to_string().into_bytes()),
        AMQPValue::LongUInt(number) => Cow::Owned(number.to_string().into_bytes()),
        AMQPValue::LongLongInt(number) => Cow::Owned(number.to_string().into_bytes()),
        AMQPValue::Timestamp(number) => Cow::Owned(number.to_string().into_bytes()),
        AMQPValue::Boolean(_)
        | AMQPValue::ShortShortInt(_)
        | AMQPValue::ShortShortUInt(_)
        | AMQPValue::ShortInt(_)
        | AMQPValue::ShortUInt(_)
        | AMQPValue::Float(_)
        | AMQPValue::Double(_)
        | AMQPValue::DecimalValue(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::Void => Cow::Borrowed(b""),
    }
}

fn table_bytes(table: &FieldTable, depth: usize) -> usize {
    let headers = table.inner().iter();
    headers.map(|(name, value)| HEADER_BYTES + name.as_str().len() + value_bytes(value, depth)).sum()
}

fn value_bytes(value: &AMQPValue, depth: usize) -> usize {
    if let (AMQPValue::FieldTable(table), 1..) = (value, depth) {
        return table_bytes(table, depth - 1);
    }
    if let (AMQPValue::FieldArray(values), 1..) = (value, depth) {
        return values.as_slice().iter().map(|value| HEADER_BYTES + value_bytes(value, depth - 1)).sum();
    }
    text(value).len()
}

fn table_json(table: &FieldTable, depth: usize, bytes_max: usize) -> Map<String, Value> {
    let headers = table.inner().iter();
    headers.map(|(name, value)| (name.as_str().to_owned(), value_json(value, depth, bytes_max))).collect()
}

fn value_json(value: &AMQPValue, depth: usize, bytes_max: usize) -> Value {
    match value {
        AMQPValue::FieldTable(_) | AMQPValue::FieldArray(_) if depth == 0 => json!(LEFT_OUT),
        AMQPValue::FieldTable(table) => Value::Object(table_json(table, depth - 1, bytes_max)),
        AMQPValue::FieldArray(values) => {
            values.as_slice().iter().map(|value| value_json(value, depth - 1, bytes_max)).collect()
        }
        AMQPValue::LongString(_) | AMQPValue::ShortString(_) | AMQPValue::ByteArray(_) => {
            bytes_json(&text(value), bytes_max)
        }
        AMQPValue::Boolean(value) => json!(value),
        AMQPValue::ShortShortInt(number) => json!(number),
        AMQPValue::ShortShortUInt(number) => json!(number),
        AMQPValue::ShortInt(number) => json!(number),
        AMQPValue::ShortUInt(number) => json!(number),
        AMQPValue::LongInt(number) => json!(number),
        AMQPValue::LongUInt(number) => json!(number),
        AMQPValue::LongLongInt(number) => json!(number),
        AMQPValue::Timestamp(number) => json!(number),
        // JSON has no infinity; as texts they all have a form.
        AMQPValue::Float(number) => json!(number.to_string()),
        AMQPValue::Double(number) => json!(number.to_string()),
        AMQPValue::DecimalValue(number) => json!(format!("{}e-{}", number.value, number.scale)),
        AMQPValue::Void => Value::Null,
    }
}

/// A text as text; what is none in hexadecimal digits, so that nothing of it is lost.
fn bytes_json(bytes: &[u8], bytes_max: usize) -> Value {
    let cut = |text: &str, bytes_max: usize| match text.get(..text.floor_char_boundary(bytes_max)) {
        Some(beginning) if beginning.len() < text.len() => format!("{beginning}{LEFT_OUT}"),
        Some(_) | None => text.to_owned(),
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(cut(text, bytes_max)),
        Err(_) => {
            let digits: String = bytes.iter().take(bytes_max).map(|byte| format!("{byte:02x}")).collect();
            json!({ "hex": cut(&digits, bytes_max) })
        }
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::{ByteArray, FieldArray};

    use super::*;

    fn envelope(headers: &[(&str, AMQPValue)]) -> Envelope {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        Envelope::new("a", BasicProperties::default().with_headers(table), "q")
    }

    fn long(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    fn dead(reason: &str) -> AMQPValue {
        let mut death = FieldTable::default();
        death.insert("reason".into(), long(reason));
        death.insert("routing-keys".into(), AMQPValue::FieldArray(FieldArray::from(vec![long("acct-1")])));
        AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(death)]))
    }

    #[test]
    fn a_signature_is_read_whatever_type_and_case_its_headers_have() {
        let bytes = |text: &str| AMQPValue::ByteArray(ByteArray::from(text.as_bytes()));
        let read = envelope(&[
            ("Webhook-Id", bytes("evt_1")),
            ("WEBHOOK-TIMESTAMP", AMQPValue::LongLongInt(1_700_000_000)),
            ("webhook-signature", bytes("v1,abc")),
            // One that is spelled as it should be comes before it.
            ("Webhook-Signature", bytes("v1,other")),
        ]);
        let text = |text: &str| Some(text.to_owned());
        let expected =
            Headers { id: text("evt_1"), timestamp: text("1700000000"), signature: text("v1,abc") };
        assert_eq!(read.signature(), expected);
    }

    #[test]
    fn what_the_publisher_gave_tells_messages_apart_and_what_the_broker_adds_does_not() {
        let one = envelope(&[("cloudEvents:id", long("evt_1"))]);
        assert_ne!(one.identity(), envelope(&[("cloudEvents:id", long("evt_2"))]).identity());
        assert_ne!(one.identity(), envelope(&[]).identity());
        assert_ne!(one.identity(), Envelope { routing_key: "b".to_owned(), ..one.clone() }.identity());
        let message_id = one.properties.clone().with_message_id("m".into());
        assert_ne!(one.identity(), Envelope { properties: message_id, ..one.clone() }.identity());
        let again = envelope(&[
            ("cloudEvents:id", long("evt_1")),
            ("x-death", dead("expired")),
            ("x-delivery-count", AMQPValue::LongLongInt(3)),
        ]);
        assert_eq!(one.identity(), again.identity());
        let expiration = one.properties.clone().with_expiration("1000".into());
        assert_eq!(one.identity(), Envelope { properties: expiration, ..one.clone() }.identity());
    }

    #[test]
    fn a_dead_letter_says_why_and_which_routing_key_it_was_published_with() {
        for (reason, death) in [
            ("delivery_limit", Some(Death::DeliveryLimit)),
            ("expired", Some(Death::Expired)),
            ("maxlen", Some(Death::Overflowed)),
            ("rejected", Some(Death::Rejected)),
            ("boredom", None),
        ] {
            assert_eq!(envelope(&[("x-death", dead(reason))]).death(), death, "{reason}");
        }
        for odd in [long("expired"), AMQPValue::FieldArray(FieldArray::default()), AMQPValue::Void] {
            assert_eq!(envelope(&[("x-death", odd)]).death(), None);
        }
        let properties = envelope(&[("x-death", dead("expired"))]).properties;
        assert_eq!(Envelope::new("dead", properties.clone(), "dead").routing_key, "acct-1");
        assert_eq!(Envelope::new("acct-2", properties, "queue").routing_key, "acct-2");
    }

    #[test]
    fn what_headers_and_properties_take_in_memory_is_counted() {
        let text = long(&"x".repeat(1_000));
        let table = FieldTable::from(std::collections::BTreeMap::from([("t".into(), text.clone())]));
        let array = AMQPValue::FieldArray(FieldArray::from(vec![text.clone(), AMQPValue::FieldTable(table)]));
        let plain = envelope(&[]).bytes();
        assert!((1..100).contains(&plain), "{plain}");
        let three = envelope(&[("a", text), ("b", array)]);
        assert!((3_000..4_000).contains(&three.bytes()), "{}", three.bytes());
        let void: Vec<(String, AMQPValue)> = (0..1_000).map(|n| (n.to_string(), AMQPValue::Void)).collect();
        let void: Vec<(&str, AMQPValue)> = void.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
        assert!(envelope(&void).bytes() >= 1_000 * HEADER_BYTES, "a header without a value takes room too");
        let properties = three.properties.with_message_id("m".repeat(200).into());
        assert!(Envelope { properties, ..envelope(&[]) }.bytes() > 3_200);
    }

    #[test]
    fn headers_of_any_size_and_type_are_kept_within_their_limit() {
        let many: Vec<(String, AMQPValue)> =
            (0..5_000).map(|n| (format!("h{n:04}"), long(&"x".repeat(3_000)))).collect();
        let many: Vec<(&str, AMQPValue)> =
            many.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let kept = envelope(&many).kept_headers();
        assert!(Value::Object(kept.clone()).to_string().len() < HEADERS_BYTES_MAX + 1_024);
        assert_eq!(kept[LEFT_OUT], "4993 more headers, not kept");
        assert_eq!(kept["h0000"], format!("{}…", "x".repeat(VALUE_BYTES_MAX)));
        let mut nested = AMQPValue::Void;
        for _ in 0..40 {
            nested = AMQPValue::FieldArray(FieldArray::from(vec![nested]));
        }
        let kept = envelope(&[
            ("nested", nested),
            ("bytes", AMQPValue::ByteArray(ByteArray::from(&[0xff, 0][..]))),
            ("nan", AMQPValue::Double(f64::NAN)),
        ])
        .kept_headers();
        assert_eq!((&kept["bytes"], &kept["nan"]), (&json!({ "hex": "ff00" }), &json!("NaN")));
        assert!(kept["nested"].to_string().contains(LEFT_OUT));
    }
}
