//! A connection to a D-Bus daemon, synchronous, with a deadline on every wait.
//!
//! ```text
//!   connect ─▶ \0AUTH EXTERNAL <uid in hex> ─▶ OK ─▶ BEGIN ─▶ Hello ─▶ calls, one at a time
//! ```
//! One thread, one call at a time: what is no answer to it and no awaited signal is dropped. Deliberately
//! absent: TCP and other transports, other ways to authenticate, being called.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use super::super::directory::refused;
use super::wire::{FIXED, Kind, Message};
use crate::StepError;

/// How long a whole exchange may take. systemd answers in milliseconds, also when it is busy.
const PATIENCE: Duration = Duration::from_secs(25);

/// Signals that may be waiting to be asked for; the awaited one comes within the next few.
const PENDING: usize = 64;

/// An open connection.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    address: String,
    serial: u32,
    deadline: Instant,
    /// Signals that came while an answer was awaited.
    signals: VecDeque<Message>,
}

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The other side refused: the error's name and its text.
    Refused { name: String, text: String },
    /// The connection failed.
    Broken(StepError),
}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Failure {
        Failure::Broken(error)
    }
}

impl Bus {
    /// Connects to the first transport of `address` that works, as `uid` (the one that the daemon sees).
    pub(super) fn connect(address: &str, uid: u32) -> Result<Bus, StepError> {
        let deadline = Instant::now() + PATIENCE;
        let stream = open(address)?;
        let mut bus = Bus {
            stream,
            address: address.to_owned(),
            serial: 0,
            deadline,
            signals: VecDeque::new(),
        };
        bus.authenticate(uid)?;
        let hello = Message {
            destination: "org.freedesktop.DBus".into(),
            path: "/org/freedesktop/DBus".into(),
            interface: "org.freedesktop.DBus".into(),
            member: "Hello".into(),
            ..Message::new(Kind::Call, 0)
        };
        match bus.call(hello) {
            Ok(_) => Ok(bus),
            Err(Failure::Refused { name, text }) => Err(bus.broken(&format!("{name}: {text}"))),
            Err(Failure::Broken(error)) => Err(error),
        }
    }

    fn authenticate(&mut self, uid: u32) -> Result<(), StepError> {
        let hex: String = uid
            .to_string()
            .bytes()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.send(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let answer = self.line()?;
        if !answer.starts_with("OK ") {
            let cause = format!("it does not take user {uid} ({answer:?})");
            return Err(self.broken(&cause));
        }
        self.send(b"BEGIN\r\n")
    }

    /// One line of the authentication. Byte by byte, as what follows the last one is no line any more; the
    /// server says nothing more than this line until it is told to begin.
    fn line(&mut self) -> Result<String, StepError> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.fill(&mut byte)?;
            line.push(byte[0]);
            if line.len() > 1024 {
                return Err(self.broken("it does not speak the D-Bus protocol"));
            }
        }
        line.truncate(line.len() - 2);
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// Calls and waits for the answer.
    pub(super) fn call(&mut self, mut call: Message) -> Result<Message, Failure> {
        self.serial += 1;
        call.serial = self.serial;
        self.send(&call.encode())?;
        loop {
            let message = self.receive()?;
            match message.kind {
                Kind::Return if message.reply_to == call.serial => return Ok(message),
                Kind::Error if message.reply_to == call.serial => {
                    return Err(Failure::Refused {
                        text: message.texts().into_iter().next().unwrap_or_default(),
                        name: message.error,
                    });
                }
                Kind::Signal if self.signals.len() < PENDING => self.signals.push_back(message),
                _ => {}
            }
        }
    }

    /// Waits for a signal.
    pub(super) fn signal(
        &mut self,
        wanted: impl Fn(&Message) -> bool,
    ) -> Result<Message, StepError> {
        while let Some(message) = self.signals.pop_front() {
            if wanted(&message) {
                return Ok(message);
            }
        }
        loop {
            let message = self.receive()?;
            if message.kind == Kind::Signal && wanted(&message) {
                return Ok(message);
            }
        }
    }

    fn receive(&mut self) -> Result<Message, StepError> {
        let mut fixed = [0; FIXED];
        self.fill(&mut fixed)?;
        let Some(rest) = Message::rest(&fixed) else {
            return Err(self.broken("it sent what is no D-Bus message"));
        };
        let mut bytes = fixed.to_vec();
        bytes.resize(FIXED + rest, 0);
        self.fill(&mut bytes[FIXED..])?;
        Message::parse(&bytes).ok_or_else(|| self.broken("it sent what is no D-Bus message"))
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), StepError> {
        let left = self.left()?;
        let sent = self
            .stream
            .set_write_timeout(Some(left))
            .and_then(|()| self.stream.write_all(bytes));
        sent.map_err(|error| self.broken(&error.to_string()))
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), StepError> {
        while !buffer.is_empty() {
            let left = self.left()?;
            let read = self
                .stream
                .set_read_timeout(Some(left))
                .and_then(|()| self.stream.read(buffer));
            match read {
                Ok(0) => return Err(self.broken("it closed the connection")),
                Ok(length) => buffer = &mut buffer[length..],
                Err(error) if is_pause(&error) => {}
                Err(error) => return Err(self.broken(&error.to_string())),
            }
        }
        Ok(())
    }

    fn left(&self) -> Result<Duration, StepError> {
        match self.deadline.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(left),
            _ => Err(self.broken("it did not answer in time")),
        }
    }

    fn broken(&self, cause: &str) -> StepError {
        refused("talk to D-Bus at", &self.address, cause)
    }

    #[cfg(test)]
    pub(super) fn hurry(&mut self, patience: Duration) {
        self.deadline = Instant::now() + patience;
    }
}

/// A timeout or a signal: whether time is left decides.
fn is_pause(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

/// `unix:path=/run/x,guid=...;unix:abstract=y`
fn open(address: &str) -> Result<UnixStream, StepError> {
    let mut cause = "it names no Unix socket".to_owned();
    for transport in address.split(';') {
        let Some(socket) = socket(transport) else {
            continue;
        };
        match socket.and_then(|socket| UnixStream::connect_addr(&socket)) {
            Ok(stream) => return Ok(stream),
            Err(error) => cause = error.to_string(),
        }
    }
    Err(refused("connect to D-Bus at", address, cause))
}

fn socket(transport: &str) -> Option<std::io::Result<SocketAddr>> {
    let keys = transport.strip_prefix("unix:")?;
    keys.split(',').find_map(|key| {
        let (name, value) = key.split_once('=')?;
        let value = unescape(value)?;
        match name {
            "path" => {
                use std::os::unix::ffi::OsStrExt;
                let path = std::ffi::OsStr::from_bytes(&value);
                Some(SocketAddr::from_pathname(path))
            }
            "abstract" => Some(SocketAddr::from_abstract_name(&value)),
            _ => None,
        }
    })
}

/// `%41` is A. None: it is cut off or no hexadecimal number.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_what_is_no_socket_is_refused_by_name() {
        let path = |address: &str| {
            let socket = socket(address)?.ok()?;
            Some(socket.as_pathname()?.to_str()?.to_owned())
        };
        assert_eq!(path("unix:guid=1,path=/a%20b").as_deref(), Some("/a b"));
        assert_eq!(path("unix:path=/a%2"), None);
        assert_eq!(path("tcp:host=x"), None);
        let error = open("tcp:host=x;unix:path=/nonexistent/bus").unwrap_err();
        assert!(error.subject.contains("/nonexistent/bus"), "{error}");
    }
}
