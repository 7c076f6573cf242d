//! An image of one layer for a server that misbehaves: its documents are answered well, its layer as a test says.

use serde_json::json;

use super::{Asked, Reply, reply};
use crate::registry::{MANIFEST, arch, digest};

pub struct OneLayer {
    manifest: Vec<u8>,
    config: Vec<u8>,
    /// As it travels.
    pub layer: Vec<u8>,
}

impl OneLayer {
    /// `layer` as it travels, and the digest of its archive.
    pub fn new(layer: Vec<u8>, diff_id: &str) -> OneLayer {
        let config = json!({"architecture": arch(), "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [diff_id]}})
        .to_string()
        .into_bytes();
        let of = |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()});
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": of("application/vnd.oci.image.config.v1+json", &config),
            "layers": [of("application/vnd.oci.image.layer.v1.tar", &layer)]});
        OneLayer {
            manifest: manifest.to_string().into_bytes(),
            config,
            layer,
        }
    }

    /// A plain tar.
    pub fn plain(tar: Vec<u8>) -> OneLayer {
        let diff_id = digest(&tar);
        OneLayer::new(tar, &diff_id)
    }

    /// Answers what is asked; the layer by `layer`.
    pub fn answer(&self, asked: &Asked, layer: impl FnOnce(&Asked) -> Reply) -> Reply {
        let line = &asked.line;
        if line.contains("/manifests/") {
            return reply("200 OK", &[("content-type", MANIFEST)], &self.manifest);
        }
        if line.contains(&digest(&self.config)) {
            return reply("200 OK", &[], &self.config);
        }
        if line.contains(&digest(&self.layer)) {
            return layer(asked);
        }
        reply("404 Not Found", &[], "")
    }

    /// The layer's head and its bytes up to `end`, whole or not.
    pub fn announced(&self, end: usize) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
            self.layer.len()
        );
        [head.as_bytes(), &self.layer[..end]].concat()
    }
}
