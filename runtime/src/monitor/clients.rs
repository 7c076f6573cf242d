//! The connections to `monitor.sock`: one line of JSON in, one out, and for who attaches the terminal's bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use crate::record::VERSION;
use crate::wire::{Answer, Call, LINE_MAX, Stream, Verb};
use crate::{StepError, rights};

/// More than any agent opens; one more is turned away.
const CLIENTS_MAX: usize = 64;
const KEYS_MAX: usize = 4 << 10;

/// Somebody who connected.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) stream: UnixStream,
    heard: Vec<u8>,
    /// Waits for the outcome of execve.
    pub(super) awaits_start: bool,
    /// Sees the terminal's output and types there.
    pub(super) attached: bool,
}

/// What became of a client that had something to say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Not a whole line yet.
    Nothing,
    /// A call.
    Call(Verb),
    /// It is gone, or talks nonsense.
    Hangup,
}

/// Takes in whoever is at the door.
pub(super) fn accept(listener: &UnixListener, clients: &mut Vec<Client>) {
    // Any error means that nobody is left to take in now; poll tells when there is.
    while let Ok((stream, _)) = listener.accept() {
        if clients.len() < CLIENTS_MAX && stream.set_nonblocking(true).is_ok() {
            clients.push(Client {
                stream,
                heard: Vec::new(),
                awaits_start: false,
                attached: false,
            });
        }
    }
}

impl Client {
    /// Reads what an attached client types; false if it is gone.
    pub(super) fn read_keys(&mut self) -> bool {
        let mut bytes = [0; KEYS_MAX];
        match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(length) => {
                self.heard.extend_from_slice(&bytes[..length]);
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    /// Typed by an attached client and not taken by the terminal yet; no more is read meanwhile.
    pub(super) fn keys(&mut self) -> &mut Vec<u8> {
        &mut self.heard
    }

    pub(super) fn has_keys(&self) -> bool {
        self.attached && !self.heard.is_empty()
    }

    /// Output for an attached client. One that does not keep up is let go: nobody stalls the terminal.
    pub(super) fn show(&mut self, output: &[u8]) {
        if self.attached
            && !matches!(self.stream.write(output), Ok(length) if length == output.len())
        {
            // It hears end of file, and is removed when it hangs up in turn.
            drop(self.stream.shutdown(Shutdown::Both));
        }
    }

    pub(super) fn hear(&mut self) -> Heard {
        let mut bytes = [0; 512];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Heard::Hangup,
            Ok(length) => self.heard.extend_from_slice(&bytes[..length]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return Heard::Nothing;
            }
            Err(_) => return Heard::Hangup,
        }
        let Some(newline) = self.heard.iter().position(|byte| *byte == b'\n') else {
            return if self.heard.len() > LINE_MAX {
                Heard::Hangup
            } else {
                Heard::Nothing
            };
        };
        let line: Vec<u8> = self.heard.drain(..=newline).collect();
        match serde_json::from_slice::<Call>(&line) {
            Ok(call) if call.version == VERSION => Heard::Call(call.verb),
            Ok(call) => {
                let cause = format!("version {} of the protocol is not {VERSION}", call.version);
                self.answer(Some(StepError::refused("call", "monitor", cause)));
                Heard::Hangup
            }
            Err(_) => Heard::Hangup,
        }
    }

    pub(super) fn answer(&self, error: Option<StepError>) {
        self.send(error, Vec::new(), &[]);
    }

    /// Well, and with these descriptors.
    pub(super) fn answer_with(&self, streams: Vec<Stream>, descriptors: &[BorrowedFd<'_>]) {
        self.send(None, streams, descriptors);
    }

    /// One line into an empty socket is taken whole; a client that is gone needs none.
    fn send(&self, error: Option<StepError>, streams: Vec<Stream>, descriptors: &[BorrowedFd<'_>]) {
        let Ok(mut line) = serde_json::to_vec(&Answer {
            version: VERSION,
            error,
            streams,
        }) else {
            return;
        };
        line.push(b'\n');
        rights::send(
            &self.stream,
            &line,
            descriptors,
            rustix::net::SendFlags::empty(),
        )
        .ok();
    }
}
