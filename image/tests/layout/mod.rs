//! Image layouts and archives in memory, right in all but what a test makes wrong.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::registry::{arch, digest, gzip};

/// What a member of an archive is.
#[derive(Clone, Debug)]
pub enum Member {
    File(Vec<u8>),
    Symlink(String),
    Hardlink(String),
    Fifo,
}

/// Members by name, as a folder or an archive.
#[derive(Clone, Debug, Default)]
pub struct Files(pub BTreeMap<String, Member>);

impl Files {
    pub fn add(&mut self, name: &str, bytes: impl Into<Vec<u8>>) {
        self.0.insert(name.to_owned(), Member::File(bytes.into()));
    }

    /// Adds a blob under its digest; its descriptor.
    pub fn blob(&mut self, media_type: &str, bytes: impl Into<Vec<u8>>) -> Value {
        let bytes = bytes.into();
        let digest = digest(&bytes);
        let line = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.add(&blob_name(&digest), bytes);
        line
    }

    pub fn bytes(&self, name: &str) -> &[u8] {
        match &self.0[name] {
            Member::File(bytes) => bytes,
            other => panic!("{name} is {other:?}"),
        }
    }

    /// As a tar archive.
    pub fn tar(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, member) in &self.0 {
            append(&mut builder, name, member);
        }
        builder.into_inner().unwrap()
    }

    /// As a folder.
    pub fn write(&self, dir: &Path) {
        for (name, member) in &self.0 {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match member {
                Member::File(bytes) => std::fs::write(path, bytes).unwrap(),
                Member::Symlink(to) => std::os::unix::fs::symlink(to, path).unwrap(),
                Member::Hardlink(to) => std::fs::hard_link(dir.join(to), path).unwrap(),
                Member::Fifo => {
                    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
                    let kind = rustix::fs::FileType::Fifo;
                    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
                }
            }
        }
    }
}

/// Appends a member by any name, also one that no careful writer writes.
pub fn append(builder: &mut tar::Builder<Vec<u8>>, name: &str, member: &Member) {
    let (kind, link, data): (_, &str, &[u8]) = match member {
        Member::File(bytes) => (tar::EntryType::Regular, "", bytes),
        Member::Symlink(to) => (tar::EntryType::Symlink, to, b""),
        Member::Hardlink(to) => (tar::EntryType::Link, to, b""),
        Member::Fifo => (tar::EntryType::Fifo, "", b""),
    };
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append(&header, data).unwrap();
}

pub fn blob_name(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
    json!({"architecture": arch(), "os": "linux", "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    .to_string()
    .into_bytes()
}

/// Adds an image of these tars; the descriptor of its manifest.
pub fn image(files: &mut Files, layers: &[Vec<u8>]) -> Value {
    let config = files.blob(CONFIG, config(layers));
    let lines: Vec<Value> = layers.iter().map(|l| files.blob(LAYER, gzip(l))).collect();
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": lines});
    files.blob(MANIFEST, manifest.to_string())
}

pub fn named(mut line: Value, key: &str, name: &str) -> Value {
    line["annotations"][key] = json!(name);
    line
}

pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
pub const IMAGE_NAME: &str = "io.containerd.image.name";

/// Gives a layout its two files.
pub fn index(files: &mut Files, lines: &[Value]) {
    files.add("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    let index = json!({"schemaVersion": 2, "manifests": lines});
    files.add("index.json", index.to_string());
}

/// A layout with one image of one name.
pub fn layout(name: &str, layers: &[Vec<u8>]) -> Files {
    let mut files = Files::default();
    let line = image(&mut files, layers);
    index(&mut files, &[named(line, REF_NAME, name)]);
    files
}

/// What `docker save` made before version 25.
pub fn docker(tags: &[&str], layers: &[Vec<u8>]) -> Files {
    let mut files = Files::default();
    let config = config(layers);
    let config_name = format!("{}.json", digest(&config).trim_start_matches("sha256:"));
    files.add(&config_name, config);
    let mut names = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let name = format!("{number}/layer.tar");
        files.add(&name, layer.clone());
        names.push(name);
    }
    let lines = json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]);
    files.add("manifest.json", lines.to_string());
    files
}
