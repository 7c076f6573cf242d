//! A server of bytes: each request is answered by what a test says, down to the last byte and beyond what HTTP allows.
//!
//! One request per connection. It serves as a registry that misbehaves, as a token service, as ECR's API and as a proxy.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

pub mod image;

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `GET /v2/a/manifests/t`
    pub line: String,
    /// Headers, one a line, names in lower case.
    pub headers: String,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.headers.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// What becomes of a request.
pub enum Reply {
    /// These bytes, and the connection's end.
    Bytes(Vec<u8>),
    /// These bytes, and then nothing for ever.
    Hang(Vec<u8>),
    /// These bytes, a few at a time.
    Trickle(Vec<u8>),
    /// The connection is reset.
    Reset,
    /// Bytes that go on for ever, after these.
    Endless(Vec<u8>),
    /// A tunnel to this address, as a proxy answers CONNECT.
    Tunnel(String),
}

/// A whole answer with its Content-Length.
pub fn reply(status: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Reply {
    let body = body.as_ref();
    let mut head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("connection: close\r\n\r\n");
    Reply::Bytes([head.as_bytes(), body].concat())
}

pub struct Server {
    pub authority: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    serving: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Server {
    /// Answers each request by `answer`.
    pub async fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Server {
        Server::with_tls(None, answer).await
    }

    pub async fn with_tls(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (log, answer, tls) = (Arc::clone(&log), Arc::clone(&answer), tls.clone());
                connections.spawn(async move {
                    // A connection that breaks is part of the game.
                    drop(serve(socket, tls, &log, &*answer).await);
                });
            }
        });
        Server {
            authority,
            asked,
            serving,
        }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How many requests so far had this in their line.
    pub fn count(&self, part: &str) -> usize {
        let asked = self.asked();
        asked.iter().filter(|a| a.line.contains(part)).count()
    }
}

async fn serve(
    socket: TcpStream,
    tls: Option<TlsAcceptor>,
    log: &Mutex<Vec<Asked>>,
    answer: &(impl Fn(&Asked) -> Reply + Sync),
) -> std::io::Result<()> {
    let Some(tls) = tls else {
        return talk(socket, log, answer).await;
    };
    talk(tls.accept(socket).await?, log, answer).await
}

async fn talk<S: AsyncReadExt + AsyncWriteExt + Unpin>(
    mut socket: S,
    log: &Mutex<Vec<Asked>>,
    answer: &(impl Fn(&Asked) -> Reply + Sync),
) -> std::io::Result<()> {
    let asked = match read(&mut socket).await {
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            socket
                .write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n")
                .await?;
            return socket.shutdown().await;
        }
        other => other?,
    };
    log.lock().unwrap().push(asked.clone());
    match answer(&asked) {
        Reply::Bytes(bytes) => {
            socket.write_all(&bytes).await?;
            socket.shutdown().await
        }
        Reply::Hang(bytes) => {
            socket.write_all(&bytes).await?;
            socket.flush().await?;
            std::future::pending().await
        }
        Reply::Trickle(bytes) => {
            for few in bytes.chunks(200) {
                socket.write_all(few).await?;
                socket.flush().await?;
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            socket.shutdown().await
        }
        // What the peer sees of a connection that is dropped before an answer.
        Reply::Reset => Ok(()),
        Reply::Endless(bytes) => {
            socket.write_all(&bytes).await?;
            loop {
                socket.write_all(&[0; 4096]).await?;
            }
        }
        Reply::Tunnel(to) => {
            let mut far = TcpStream::connect(to).await?;
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            copy_bidirectional(&mut socket, &mut far).await.map(drop)
        }
    }
}

async fn read<S: AsyncReadExt + Unpin>(socket: &mut S) -> std::io::Result<Asked> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        // The first byte of TLS, which never says what we wait for.
        if bytes[0] == 0x16 {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let (line, headers) = head.split_once("\r\n").unwrap_or_default();
    let headers: String = headers
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| format!("{}: {value}\n", name.to_ascii_lowercase()))
        .collect();
    let mut asked = Asked {
        line: line.trim_end_matches(" HTTP/1.1").to_owned(),
        headers,
        body: String::new(),
    };
    let length = asked.header("content-length").and_then(|l| l.parse().ok());
    while bytes.len() < end + length.unwrap_or(0) {
        if socket.read_buf(&mut bytes).await? == 0 {
            break;
        }
    }
    asked.body = String::from_utf8_lossy(&bytes[end..]).into_owned();
    Ok(asked)
}
