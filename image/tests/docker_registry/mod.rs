//! Debian's docker-registry, and an image layout for skopeo to push there.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::registry::{arch, digest, gzip};

/// Debian's registry on a port of its own; gone when dropped.
pub(crate) struct DockerRegistry {
    child: Child,
    pub(crate) authority: String,
}

impl DockerRegistry {
    /// `more`: further lines of its configuration.
    pub(crate) fn start(dir: &Path, more: &str) -> DockerRegistry {
        let config = dir.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n{more}",
            dir.join("registry").display()
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("docker-registry is missing: install the package docker-registry");
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let authority = loop {
            line.clear();
            assert!(
                log.read_line(&mut line).unwrap() > 0,
                "docker-registry ended"
            );
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ' ', '\n']).next().unwrap().to_owned();
            }
        };
        // It must never wait for somebody to read its log.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        DockerRegistry { child, authority }
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn run(package: &str, command: &mut Command) {
    let output = command.output();
    let output =
        output.unwrap_or_else(|e| panic!("{command:?}: {e}: install the package {package}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// An OCI image layout of plain tars, for skopeo and umoci to read.
pub(crate) fn layout(dir: &Path, layers: &[Vec<u8>]) -> PathBuf {
    let to = dir.join("layout");
    std::fs::create_dir_all(to.join("blobs/sha256")).unwrap();
    let blob = |bytes: &[u8]| {
        let digest = digest(bytes);
        std::fs::write(to.join("blobs").join(digest.replace(':', "/")), bytes).unwrap();
        (digest, bytes.len())
    };
    let described = |media_type: &str, (digest, size): (String, usize)| json!({"mediaType": format!("application/vnd.oci.image.{media_type}"), "digest": digest, "size": size});
    let diff_ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
    let config = json!({"architecture": arch(), "os": "linux", "config": {"User": "app:staff"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = described("config.v1+json", blob(config.to_string().as_bytes()));
    let layers: Vec<_> = layers
        .iter()
        .map(|l| described("layer.v1.tar+gzip", blob(&gzip(l))))
        .collect();
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    let mut manifest = described("manifest.v1+json", blob(manifest.to_string().as_bytes()));
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "t"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(to.join("index.json"), index.to_string()).unwrap();
    std::fs::write(to.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    to
}
