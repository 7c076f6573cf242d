//! What can go wrong between us and a registry, in the two kinds that a pull must tell apart.

use std::error::Error;
use std::io;

use crate::error::{ImageError, printable};

/// Why a registry gave us nothing.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It could not be asked, or could not answer: a stored image may serve instead.
    Unreachable(ImageError),
    /// It answered, and the answer was no, or was wrong: nothing else may serve instead.
    Refused(ImageError),
}

impl From<ImageError> for Fault {
    fn from(error: ImageError) -> Fault {
        Fault::Refused(error)
    }
}

/// What became of a connection attempt.
pub(crate) enum Broken {
    /// The peer does not speak TLS at all.
    NotTls(String),
    /// TLS was spoken and failed: a wrong certificate, an unknown authority.
    Tls(String),
    /// No connection came about: the name, the network, nobody listening.
    Connect(String),
    /// A connection broke before the answer.
    Wire(String),
    /// No answer came.
    Silent(String),
}

/// Sorts an error of the HTTP client by walking its sources.
pub(crate) fn classify(error: &hyper_util::client::legacy::Error) -> Broken {
    let connecting = error.is_connect();
    let error: &(dyn Error + 'static) = error;
    let text = chain(error);
    let mut source = Some(error);
    while let Some(e) = source {
        if let Some(tls) = tls_error(e) {
            return match tls {
                rustls::Error::InvalidMessage(_) => Broken::NotTls(text),
                _ => Broken::Tls(text),
            };
        }
        if is_end_of_handshake(e) {
            return Broken::NotTls(text);
        }
        source = e.source();
    }
    match connecting {
        true => Broken::Connect(text),
        false => Broken::Wire(text),
    }
}

fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    // tokio-rustls puts its error inside an io::Error, whose `source` skips over it.
    let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
    let inner: &(dyn Error + 'static) = inner;
    tls_error(inner)
}

/// tokio-rustls' own words for a peer that hung up at once. In an error of a proxy they are only repeated.
fn is_end_of_handshake(error: &(dyn Error + 'static)) -> bool {
    let Some(error) = error.downcast_ref::<io::Error>() else {
        return false;
    };
    let words = error.to_string();
    if error.kind() == io::ErrorKind::UnexpectedEof && words == "tls handshake eof" {
        return true;
    }
    error
        .get_ref()
        .is_some_and(|inner| is_end_of_handshake(inner))
}

/// An error and its sources in one line, each said once.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut source = Some(error);
    while let Some(e) = source {
        let text = printable(&e.to_string(), 200);
        if !parts.iter().any(|p| p.contains(&text)) {
            parts.push(text);
        }
        source = e.source();
    }
    parts.join(": ")
}
