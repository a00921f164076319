//! What stands in the frames that RabbitMQ sends, made harmless in place before lapin reads it. Pure: bytes in, bytes of the same length out.
//! AMQP 0-9-1 lets a publisher write two things that stop lapin's parser, and with it every consumer of the queue, each time the message
//! comes again: header tables nested so deeply that reading them ends the stack, and short strings that are not UTF-8. What must not live
//! here: sockets.

/// Bytes before a frame's payload: type (1), channel (2), size (4). AMQP 0-9-1, section 2.3.5.
pub const HEAD_BYTES: usize = 7;
/// Bytes after it: the octet that ends a frame.
pub const END_BYTES: usize = 1;

/// Tables and arrays in the headers of a message that are nested deeper are handed on as opaque bytes. RabbitMQ's own `x-death` needs 3 levels.
pub const DEPTH_MAX: usize = 32;

const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;

/// Stands for each byte of a short string that is not UTF-8: one for one, so that lengths stay.
const REPLACEMENT: u8 = b'?';

/// Methods with texts that a publisher, or a peer that closes, has chosen: class, method, and what stands before the first text.
const METHODS_WITH_TEXTS: [(u16, u16, &[Field]); 6] = [
    // connection.close and channel.close: reply code, reply text.
    (10, 50, &[Field::Bytes(2), Field::ShortString]),
    (20, 40, &[Field::Bytes(2), Field::ShortString]),
    // basic.cancel: consumer tag.
    (60, 30, &[Field::ShortString]),
    // basic.return: reply code, reply text, exchange, routing key.
    (60, 50, &[Field::Bytes(2), Field::ShortString, Field::ShortString, Field::ShortString]),
    // basic.deliver: consumer tag, delivery tag, redelivered, exchange, routing key.
    (60, 60, &[Field::ShortString, Field::Bytes(9), Field::ShortString, Field::ShortString]),
    // basic.get-ok: delivery tag, redelivered, exchange, routing key.
    (60, 71, &[Field::Bytes(9), Field::ShortString, Field::ShortString]),
];

/// The properties of class basic in the order of their flags, from bit 15 down (AMQP 0-9-1, class basic).
const PROPERTIES: [Field; 14] = [
    Field::ShortString, // content type
    Field::ShortString, // content encoding
    Field::Table,       // headers
    Field::Bytes(1),    // delivery mode
    Field::Bytes(1),    // priority
    Field::ShortString, // correlation id
    Field::ShortString, // reply to
    Field::ShortString, // expiration
    Field::ShortString, // message id
    Field::Bytes(8),    // timestamp
    Field::ShortString, // type
    Field::ShortString, // user id
    Field::ShortString, // app id
    Field::ShortString, // reserved, formerly cluster id
];

#[derive(Clone, Copy)]
enum Field {
    Bytes(usize),
    ShortString,
    Table,
}

/// Whether frames of this type hold what a publisher wrote into properties and routing keys: they are to be whole before they are read.
#[must_use]
pub fn holds_texts(frame_type: u8) -> bool {
    matches!(frame_type, METHOD | CONTENT_HEADER)
}

/// Makes the payload of a whole frame harmless: bytes of short strings that are not UTF-8 become `?`, tables and arrays deeper than
/// [`DEPTH_MAX`] become long strings of the same bytes. Bytes that are no frame are left as they are from there on: a parser that reads from the front
/// refuses them at the same place.
pub fn sanitize(frame_type: u8, payload: &mut [u8]) {
    let mut cursor = Cursor { bytes: payload, at: 0 };
    let _end_or_malformed = match frame_type {
        METHOD => cursor.method(),
        CONTENT_HEADER => cursor.content_header(),
        _ => None,
    };
}

struct Cursor<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn method(&mut self) -> Option<()> {
        let (class, method) = (self.u16()?, self.u16()?);
        let (_, _, fields) = METHODS_WITH_TEXTS.iter().find(|(c, m, _)| (*c, *m) == (class, method))?;
        fields.iter().try_for_each(|field| self.field(*field))
    }

    fn content_header(&mut self) -> Option<()> {
        // Class, weight, size of the body.
        self.skip(2 + 2 + 8)?;
        let flags = self.u16()?;
        for (bit, field) in PROPERTIES.iter().enumerate() {
            if flags & (0x8000 >> bit) != 0 {
                self.field(*field)?;
            }
        }
        Some(())
    }

    fn field(&mut self, field: Field) -> Option<()> {
        match field {
            Field::Bytes(count) => self.skip(count),
            Field::ShortString => self.short_string(),
            Field::Table => self.table(),
        }
    }

    /// Walks the table without recursion: the ends of the tables and arrays around the cursor lie on a stack of [`DEPTH_MAX`].
    fn table(&mut self) -> Option<()> {
        let mut around = [(0, false); DEPTH_MAX];
        let mut depth = 0;
        self.enter(&mut around, &mut depth, false)?;
        while let Some((end, is_array)) = depth.checked_sub(1).and_then(|top| around.get(top)).copied() {
            if self.at >= end {
                depth -= 1;
                continue;
            }
            if !is_array {
                self.short_string()?;
            }
            let type_at = self.at;
            match self.u8()? {
                b'V' => {}
                b't' | b'b' | b'B' => self.skip(1)?,
                b's' | b'U' | b'u' => self.skip(2)?,
                b'I' | b'i' | b'f' => self.skip(4)?,
                b'D' => self.skip(5)?,
                b'L' | b'l' | b'd' | b'T' => self.skip(8)?,
                b'S' | b'x' => self.long_string()?,
                b'F' | b'A' if depth == DEPTH_MAX => {
                    // The same layout: a length in four bytes, then so many bytes.
                    *self.bytes.get_mut(type_at)? = b'S';
                    self.long_string()?;
                }
                kind @ (b'F' | b'A') => self.enter(&mut around, &mut depth, kind == b'A')?,
                _ => return None,
            }
        }
        Some(())
    }

    fn enter(
        &mut self,
        around: &mut [(usize, bool); DEPTH_MAX],
        depth: &mut usize,
        is_array: bool,
    ) -> Option<()> {
        let bytes = usize::try_from(self.u32()?).ok()?;
        let end = self.at.checked_add(bytes).filter(|end| *end <= self.bytes.len())?;
        *around.get_mut(*depth)? = (end, is_array);
        *depth += 1;
        Some(())
    }

    fn short_string(&mut self) -> Option<()> {
        let count = usize::from(self.u8()?);
        let start = self.at;
        self.skip(count)?;
        let mut text = self.bytes.get_mut(start..self.at)?;
        while let Err(error) = std::str::from_utf8(text) {
            let (_, wrong) = text.split_at_mut(error.valid_up_to());
            let (wrong, rest) = wrong.split_at_mut(error.error_len().unwrap_or(wrong.len()));
            wrong.fill(REPLACEMENT);
            text = rest;
        }
        Some(())
    }

    fn long_string(&mut self) -> Option<()> {
        let count = usize::try_from(self.u32()?).ok()?;
        self.skip(count)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at = self.at.checked_add(count).filter(|at| *at <= self.bytes.len())?;
        Some(())
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let start = self.at;
        self.skip(N)?;
        self.bytes.get(start..self.at)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }
}
