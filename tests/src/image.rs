//! Images made by hand, so that they can be wrong in exactly one way.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// One layer as an uncompressed tar.
#[derive(Debug, Default)]
pub struct Layer {
    tar: Vec<u8>,
}

impl Layer {
    /// An empty layer.
    pub fn new() -> Layer {
        Layer::default()
    }

    /// A regular file. The path is written as it is given, also where it is one that tar refuses to make.
    pub fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Layer {
        self.entry(path, tar::EntryType::Regular, mode, "", content);
        self
    }

    /// A folder.
    pub fn folder(mut self, path: &str) -> Layer {
        self.entry(path, tar::EntryType::Directory, 0o755, "", &[]);
        self
    }

    /// A symbolic link.
    pub fn symlink(mut self, path: &str, target: &str) -> Layer {
        self.entry(path, tar::EntryType::Symlink, 0o777, target, &[]);
        self
    }

    /// A hard link.
    pub fn hardlink(mut self, path: &str, target: &str) -> Layer {
        self.entry(path, tar::EntryType::Link, 0o644, target, &[]);
        self
    }

    fn entry(&mut self, path: &str, kind: tar::EntryType, mode: u32, link: &str, content: &[u8]) {
        let mut header = tar::Header::new_ustar();
        // Straight into the header's bytes: the tar crate refuses `..`, and that is what we need.
        let raw = header.as_old_mut();
        raw.name[..path.len()].copy_from_slice(path.as_bytes());
        raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.tar.extend_from_slice(header.as_bytes());
        self.tar.extend_from_slice(content);
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
    }

    fn finished(mut self) -> Vec<u8> {
        self.tar.resize(self.tar.len() + 1024, 0);
        self.tar
    }
}

/// An image: layers from the bottom up and a configuration.
#[derive(Debug)]
pub struct Image {
    layers: Vec<Vec<u8>>,
    diff_ids: Vec<String>,
    config: Value,
}

impl Image {
    /// Debian's static busybox as `/bin/busybox` and `/bin/sh`, with root in `/etc/passwd`.
    pub fn busybox() -> Image {
        let busybox =
            std::fs::read("/bin/busybox").expect("read /bin/busybox (package busybox-static)");
        let base = Layer::new()
            .folder("bin")
            .folder("etc")
            .folder("tmp")
            .file("bin/busybox", 0o755, &busybox)
            .symlink("bin/sh", "busybox")
            .file(
                "etc/passwd",
                0o644,
                b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n",
            )
            .file("etc/group", 0o644, b"root:x:0:\nweb:x:33:\n");
        let config = json!({"Env": ["PATH=/bin"], "Cmd": ["/bin/sh", "-c", "exit 0"]});
        Image {
            layers: Vec::new(),
            diff_ids: Vec::new(),
            config,
        }
        .layer(base)
    }

    /// One more layer on top.
    pub fn layer(mut self, layer: Layer) -> Image {
        let tar = layer.finished();
        self.diff_ids.push(digest(&tar));
        self.layers.push(gzip(&tar));
        self
    }

    /// Says of the top layer that it has another diff ID than it has.
    pub fn with_wrong_diff_id(mut self) -> Image {
        *self.diff_ids.last_mut().expect("a layer") = digest(b"something else");
        self
    }

    /// Digest of the top layer's blob.
    pub fn top_layer(&self) -> String {
        digest(self.layers.last().expect("a layer"))
    }

    pub(crate) fn blobs(&self) -> Vec<Vec<u8>> {
        let mut blobs = self.layers.clone();
        blobs.push(self.configuration());
        blobs
    }

    fn configuration(&self) -> Vec<u8> {
        json!({
            "architecture": "amd64",
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
        })
        .to_string()
        .into_bytes()
    }

    pub(crate) fn manifest(&self) -> Vec<u8> {
        let descriptor = |kind: &str, blob: &[u8]| json!({"mediaType": kind, "digest": digest(blob), "size": blob.len()});
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|blob| descriptor(layer, blob))
            .collect();
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &self.configuration()),
            "layers": layers,
        })
        .to_string()
        .into_bytes()
    }
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("compress in memory");
    encoder.finish().expect("compress in memory")
}
