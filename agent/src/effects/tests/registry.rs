//! The smallest registry: one image of busybox under one tag, over HTTP on loopback.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use flate2::write::GzEncoder;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 12] = [
    "sh", "cat", "dd", "echo", "grep", "id", "ls", "nc", "sleep", "tr", "true", "wc",
];

/// Serves for as long as its tokio runtime.
#[derive(Debug)]
pub(super) struct Registry {
    port: u16,
}

impl Registry {
    pub(super) async fn start() -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let content = Arc::new(content());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let content = Arc::clone(&content);
                tokio::spawn(async move {
                    let service = service_fn(|request| {
                        let answer = answer(&content, &request);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    drop(
                        http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await,
                    );
                });
            }
        });
        Registry { port }
    }

    /// The reference of its image.
    pub(super) fn image(&self) -> String {
        format!("127.0.0.1:{}/busybox:1", self.port)
    }
}

type Content = HashMap<String, (&'static str, Vec<u8>)>;

fn answer(content: &Content, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if path == "/v2/" {
        return Response::new(Full::default());
    }
    let Some((kind, bytes)) = content.get(path) else {
        let mut missing = Response::new(Full::default());
        *missing.status_mut() = StatusCode::NOT_FOUND;
        return missing;
    };
    let body = match *request.method() {
        http::Method::HEAD => Bytes::new(),
        _ => Bytes::copy_from_slice(bytes),
    };
    Response::builder()
        .header("content-type", *kind)
        .header("content-length", bytes.len())
        .header("docker-content-digest", digest(bytes))
        .body(Full::new(body))
        .unwrap()
}

fn content() -> Content {
    let layer = layer();
    let mut packed = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, &layer).unwrap();
    let packed = packed.finish().unwrap();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": {"Cmd": ["true"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        "history": [],
    })
    .to_string()
    .into_bytes();
    let descriptor = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &packed)],
    })
    .to_string()
    .into_bytes();
    let blob = |bytes: Vec<u8>| {
        let path = format!("/v2/busybox/blobs/{}", digest(&bytes));
        (path, ("application/octet-stream", bytes))
    };
    let by_digest = format!("/v2/busybox/manifests/{}", digest(&manifest));
    HashMap::from([
        blob(config),
        blob(packed),
        (by_digest, (MANIFEST, manifest.clone())),
        ("/v2/busybox/manifests/1".to_owned(), (MANIFEST, manifest)),
    ])
}

/// A root with busybox and a few names for it.
fn layer() -> Vec<u8> {
    let program = std::fs::read(BUSYBOX).expect("/bin/busybox: install busybox-static");
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind, mode, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header
    };
    let mut dir = header(tar::EntryType::Directory, 0o755, 0);
    tar.append_data(&mut dir, "bin/", std::io::empty()).unwrap();
    let mut file = header(tar::EntryType::Regular, 0o755, program.len() as u64);
    tar.append_data(&mut file, "bin/busybox", &program[..])
        .unwrap();
    for applet in APPLETS {
        let mut link = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut link, format!("bin/{applet}"), "busybox")
            .unwrap();
    }
    tar.into_inner().unwrap()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
