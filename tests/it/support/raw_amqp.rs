//! A publisher that writes AMQP 0-9-1 frames itself, to send what a client library would not.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xce;
/// What RabbitMQ allows by default.
const FRAME_MAX: u32 = 131_072;

/// Properties as they go into a content header: which are there, and their bytes.
#[derive(Debug, Clone, Default)]
pub struct RawProperties {
    flags: u16,
    bytes: Vec<u8>,
}

impl RawProperties {
    pub fn content_type(text: &[u8]) -> Self {
        Self { flags: 1 << 15, bytes: short(text) }
    }

    /// One header with this name and no value.
    pub fn header(name: &[u8]) -> Self {
        Self { flags: 1 << 13, bytes: long(&[short(name), vec![b'V']].concat()) }
    }

    /// Many headers with a value.
    pub fn headers(count: usize) -> Self {
        let one = |n: usize| [short(format!("h{n}").as_bytes()), vec![b'S'], long(b"value")].concat();
        Self { flags: 1 << 13, bytes: long(&(0..count).flat_map(one).collect::<Vec<u8>>()) }
    }

    /// A table in a table in a table.
    pub fn nested(levels: usize) -> Self {
        let mut table = long(&[]);
        for _ in 0..levels {
            table = long(&[&[0, b'F'], &table[..]].concat());
        }
        Self { flags: 1 << 13, bytes: table }
    }
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a short string")], text].concat()
}

fn long(text: &[u8]) -> Vec<u8> {
    [&u32::try_from(text.len()).expect("a long string").to_be_bytes(), text].concat()
}

pub struct RawPublisher {
    stream: TcpStream,
}

impl RawPublisher {
    /// Connects as guest to the vhost /, opens channel 1, asks for confirms.
    pub async fn connect(amqp_url: &str) -> Self {
        let url = url::Url::parse(amqp_url).expect("an address");
        let address = (url.host_str().expect("a host"), url.port().unwrap_or(5672));
        let stream = TcpStream::connect(address).await.expect("RabbitMQ answers");
        let mut raw = Self { stream };
        raw.stream.write_all(b"AMQP\x00\x00\x09\x01").await.expect("written");
        raw.answer().await;
        let plain = format!("\0{}\0{}", url.username(), url.password().unwrap_or_default());
        let start_ok = [long(b""), short(b"PLAIN"), long(plain.as_bytes()), short(b"en_US")].concat();
        raw.method(0, 10, 11, &start_ok).await;
        raw.answer().await;
        let tune_ok = [&2_047_u16.to_be_bytes()[..], &FRAME_MAX.to_be_bytes(), &[0, 0]].concat();
        raw.method(0, 10, 31, &tune_ok).await;
        raw.method(0, 10, 40, &[short(b"/"), vec![0, 0]].concat()).await;
        raw.answer().await;
        raw.method(1, 20, 10, &[0]).await;
        raw.answer().await;
        raw.method(1, 85, 10, &[0]).await;
        raw.answer().await;
        raw
    }

    /// Publishes and waits for the confirm.
    pub async fn publish(
        &mut self,
        exchange: &str,
        routing_key: &[u8],
        properties: &RawProperties,
        body: &[u8],
    ) {
        let arguments = [vec![0, 0], short(exchange.as_bytes()), short(routing_key), vec![1]].concat();
        self.method(1, 60, 40, &arguments).await;
        let header = [
            &[0, 60, 0, 0][..],
            &(body.len() as u64).to_be_bytes(),
            &properties.flags.to_be_bytes(),
            &properties.bytes,
        ]
        .concat();
        self.frame(HEADER, 1, &header).await;
        for part in body.chunks(FRAME_MAX as usize - 8) {
            self.frame(BODY, 1, part).await;
        }
        let (class, method) = self.answer().await;
        assert_eq!((class, method), (60, 80), "the broker takes the message");
    }

    async fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(METHOD, channel, &payload).await;
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a frame");
        let frame =
            [&[kind][..], &channel.to_be_bytes(), &length.to_be_bytes(), payload, &[FRAME_END]].concat();
        self.stream.write_all(&frame).await.expect("written");
    }

    /// The class and the method of the next answer.
    async fn answer(&mut self) -> (u16, u16) {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).await.expect("RabbitMQ answers");
        let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut payload = vec![0; length as usize + 1];
        self.stream.read_exact(&mut payload).await.expect("RabbitMQ answers");
        (u16::from_be_bytes([payload[0], payload[1]]), u16::from_be_bytes([payload[2], payload[3]]))
    }
}
