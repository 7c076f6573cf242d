//! D-Bus messages as bytes: as much of the specification's type system as systemd's interface needs.
//!
//! We write little endian; what comes in is read in whatever order it declares. All that comes in is foreign:
//! lengths are bounded before anything is allocated, offsets are checked, and no text makes the reader panic.
//! Deliberately absent: file descriptors, dictionaries, and reading of containers (no answer that we wait for has
//! one).

/// The longest message that is taken, header fields and body each. The protocol would allow 128 MiB.
const LONGEST: usize = 1 << 20;

/// Bytes of the header that are always there.
pub(super) const FIXED: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Call = 1,
    Return = 2,
    Error = 3,
    Signal = 4,
}

/// A message, incoming or outgoing. Empty text stands for a field that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) serial: u32,
    pub(super) reply_to: u32,
    pub(super) path: String,
    pub(super) interface: String,
    pub(super) member: String,
    pub(super) error: String,
    pub(super) destination: String,
    pub(super) sender: String,
    pub(super) signature: String,
    pub(super) body: Vec<u8>,
    pub(super) big_endian: bool,
}

/// A value to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cgroup) enum Value {
    Bool(bool),
    U64(u64),
    Text(String),
    /// `as`
    Texts(Vec<String>),
    /// `au`
    Numbers(Vec<u32>),
    /// `ay`
    Bytes(Vec<u8>),
    /// `a(st)`
    Amounts(Vec<(String, u64)>),
}

/// A named value, as systemd takes properties.
pub(in crate::cgroup) type Property = (&'static str, Value);

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Value::Bool(_) => "b",
            Value::U64(_) => "t",
            Value::Text(_) => "s",
            Value::Texts(_) => "as",
            Value::Numbers(_) => "au",
            Value::Bytes(_) => "ay",
            Value::Amounts(_) => "a(st)",
        }
    }
}

/// Builds a body, or a header.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Writer {
        self.align(4);
        self.bytes.extend(value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) {
        self.align(8);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn bool(&mut self, value: bool) -> &mut Writer {
        self.u32(value.into())
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Writer {
        self.u32(text.len() as u32);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
        self
    }

    /// Signatures that we write are short.
    fn signature(&mut self, signature: &str) {
        self.bytes.push(signature.len() as u8);
        self.bytes.extend(signature.as_bytes());
        self.bytes.push(0);
    }

    /// An array whose elements are aligned to `align`. The padding before the first is not in its length.
    fn array<T>(&mut self, align: usize, items: &[T], mut each: impl FnMut(&mut Writer, &T)) {
        self.u32(0);
        let length_at = self.bytes.len() - 4;
        self.align(align);
        let start = self.bytes.len();
        for item in items {
            self.align(align);
            each(self, item);
        }
        let length = (self.bytes.len() - start) as u32;
        self.bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Bool(value) => {
                self.bool(*value);
            }
            Value::U64(value) => self.u64(*value),
            Value::Text(text) => {
                self.text(text);
            }
            Value::Texts(all) => self.array(4, all, |w, text| {
                w.text(text);
            }),
            Value::Numbers(all) => {
                self.numbers(all);
            }
            Value::Bytes(all) => self.array(1, all, |w, byte| w.bytes.push(*byte)),
            Value::Amounts(all) => self.array(8, all, |w, (name, amount)| {
                w.text(name).u64(*amount);
            }),
        }
    }

    /// `au`
    pub(super) fn numbers(&mut self, numbers: &[u32]) -> &mut Writer {
        self.array(4, numbers, |w, number| {
            w.u32(*number);
        });
        self
    }

    /// `a(sv)`
    pub(super) fn properties(&mut self, properties: &[Property]) -> &mut Writer {
        self.array(8, properties, |w, (name, value)| {
            w.text(name).signature(value.signature());
            w.value(value);
        });
        self
    }

    /// An empty array of structures.
    pub(super) fn nothing(&mut self) -> &mut Writer {
        self.array::<()>(8, &[], |_, ()| {});
        self
    }
}

impl Message {
    pub(super) fn new(kind: Kind, serial: u32) -> Message {
        Message {
            kind,
            serial,
            reply_to: 0,
            path: String::new(),
            interface: String::new(),
            member: String::new(),
            error: String::new(),
            destination: String::new(),
            sender: String::new(),
            signature: String::new(),
            body: Vec::new(),
            big_endian: false,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut header = Writer {
            bytes: vec![b'l', self.kind as u8, 0, 1],
        };
        header.u32(self.body.len() as u32).u32(self.serial);
        let texts = [
            (1, "o", &self.path),
            (2, "s", &self.interface),
            (3, "s", &self.member),
            (4, "s", &self.error),
            (6, "s", &self.destination),
            (7, "s", &self.sender),
            (8, "g", &self.signature),
        ];
        let mut fields: Vec<(u8, &str, Option<&str>)> = texts
            .iter()
            .filter(|(_, _, text)| !text.is_empty())
            .map(|(code, kind, text)| (*code, *kind, Some(text.as_str())))
            .collect();
        if self.reply_to != 0 {
            fields.push((5, "u", None));
        }
        header.array(8, &fields, |w, (code, kind, text)| {
            w.bytes.push(*code);
            w.signature(kind);
            match text {
                Some(text) if *kind == "g" => w.signature(text),
                Some(text) => {
                    w.text(text);
                }
                None => {
                    w.u32(self.reply_to);
                }
            }
        });
        header.align(8);
        header.bytes.extend(&self.body);
        header.bytes
    }

    /// From the fixed part of a header: how many bytes follow it.
    pub(super) fn rest(fixed: &[u8; FIXED]) -> Option<usize> {
        let big_endian = order(fixed[0])?;
        let mut reader = Reader::new(fixed, big_endian);
        reader.at = 4;
        let body = reader.u32()? as usize;
        reader.at = 12;
        let fields = reader.u32()? as usize;
        if body > LONGEST || fields > LONGEST {
            return None;
        }
        Some(fields.next_multiple_of(8) + body)
    }

    /// A whole message: the fixed part and what follows it.
    pub(super) fn parse(bytes: &[u8]) -> Option<Message> {
        let fixed: &[u8; FIXED] = bytes.get(..FIXED)?.try_into().ok()?;
        if bytes.len() != FIXED + Message::rest(fixed)? || fixed[3] != 1 {
            return None;
        }
        let kind = match fixed[1] {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => return None,
        };
        let big_endian = order(fixed[0])?;
        let mut reader = Reader::new(bytes, big_endian);
        reader.at = 8;
        let mut message = Message::new(kind, reader.u32()?);
        message.big_endian = big_endian;
        let fields = reader.u32()? as usize;
        let end = FIXED + fields;
        while reader.at < end {
            reader.align(8)?;
            message.field(&mut reader)?;
        }
        if reader.at != end {
            return None;
        }
        reader.align(8)?;
        message.body = bytes.get(reader.at..)?.to_vec();
        Some(message)
    }

    fn field(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let code = reader.u8()?;
        let kind = reader.signature()?;
        match (code, kind.as_str()) {
            (5, "u") => self.reply_to = reader.u32()?,
            (_, "u") => drop(reader.u32()?),
            (8, "g") => self.signature = reader.signature()?,
            (_, "g") => drop(reader.signature()?),
            (_, "o" | "s") => {
                let text = reader.text()?;
                match code {
                    1 => self.path = text,
                    2 => self.interface = text,
                    3 => self.member = text,
                    4 => self.error = text,
                    6 => self.destination = text,
                    7 => self.sender = text,
                    // Fields of a later version are to be passed over.
                    _ => {}
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// The texts at the beginning of the body, as far as they are any (`s` and `o`), numbers passed over.
    pub(super) fn texts(&self) -> Vec<String> {
        let mut reader = Reader::new(&self.body, self.big_endian);
        let mut texts = Vec::new();
        for kind in self.signature.bytes() {
            let text = match kind {
                b's' | b'o' => reader.text(),
                b'u' => match reader.u32() {
                    Some(_) => continue,
                    None => None,
                },
                _ => None,
            };
            match text {
                Some(text) => texts.push(text),
                None => break,
            }
        }
        texts
    }
}

fn order(byte: u8) -> Option<bool> {
    match byte {
        b'l' => Some(false),
        b'B' => Some(true),
        _ => None,
    }
}

/// Reads foreign bytes. None: they are not what they say.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], big_endian: bool) -> Reader<'a> {
        Reader {
            bytes,
            at: 0,
            big_endian,
        }
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn align(&mut self, to: usize) -> Option<()> {
        let padding = self.at.next_multiple_of(to) - self.at;
        self.take(padding).map(drop)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        let bytes: [u8; 4] = self.take(4)?.try_into().ok()?;
        Some(match self.big_endian {
            true => u32::from_be_bytes(bytes),
            false => u32::from_le_bytes(bytes),
        })
    }

    fn text(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        self.terminated(length)
    }

    fn signature(&mut self) -> Option<String> {
        let length = self.u8()?.into();
        self.terminated(length)
    }

    fn terminated(&mut self, length: usize) -> Option<String> {
        let text = self.take(length)?;
        let end = self.u8()?;
        let valid = end == 0 && !text.contains(&0);
        let text = std::str::from_utf8(text).ok()?;
        valid.then(|| text.to_owned())
    }
}

#[cfg(test)]
mod tests;
