//! Debian's docker-registry on loopback, and what a hostile or broken registry would serve.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::image::Image;
use crate::street::{repository, run};

/// A running registry; it ends with this value.
#[derive(Debug)]
pub struct Registry {
    /// `host:port`.
    pub address: String,
    blobs: PathBuf,
    child: Child,
}

impl Registry {
    pub(crate) fn start(folder: &Path) -> Registry {
        let address = "127.0.0.1:5000".to_owned();
        let blobs = folder.join("blobs");
        fs::create_dir_all(&blobs).expect("make the registry's folder");
        let config = folder.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: \
             {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n",
            blobs.display()
        );
        fs::write(&config, text).expect("write the registry's configuration");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start docker-registry; scripts/test installs it");
        let registry = Registry {
            address,
            blobs,
            child,
        };
        registry.wait();
        registry
    }

    fn wait(&self) {
        let patience = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&self.address).is_err() {
            assert!(
                Instant::now() < patience,
                "docker-registry does not listen on {}",
                self.address
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Pushes the image of `scripts/lib/image.sh` (a web server in four layers, from Debian packages) and
    /// returns its reference.
    pub fn push_web(&self, name: &str) -> String {
        let layout = repository().join("target/cache/web-image");
        assert!(
            layout.join("made").exists(),
            "no web image; scripts/test makes it (scripts/lib/image.sh)"
        );
        let reference = format!("{}/{name}", self.address);
        let from = format!("oci:{}:latest", layout.display());
        let to = format!("docker://{reference}");
        run(
            "skopeo",
            &["copy", "--quiet", "--dest-tls-verify=false", &from, &to],
        );
        reference
    }

    /// Pushes an image just as it is, sound or not: blobs and manifest by plain HTTP.
    pub fn push(&self, name: &str, image: &Image) -> String {
        let (repository, tag) = name.split_once(':').expect("name:tag");
        for blob in image.blobs() {
            self.put_blob(repository, &blob);
        }
        let path = format!("/v2/{repository}/manifests/{tag}");
        self.request(
            "PUT",
            &path,
            "application/vnd.oci.image.manifest.v1+json",
            &image.manifest(),
        );
        format!("{}/{name}", self.address)
    }

    fn put_blob(&self, repository: &str, blob: &[u8]) {
        let started = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), "", &[]);
        let location = header(&started, "location").expect("an upload has a location");
        let path = location
            .split_once(&self.address)
            .map_or(location.as_str(), |(_, path)| path);
        let joint = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{joint}digest={}", crate::image::digest(blob));
        self.request("PUT", &path, "application/octet-stream", blob);
    }

    /// Changes one byte of a stored blob: its content no longer has its digest.
    pub fn corrupt(&self, digest: &str) {
        let hex = digest.strip_prefix("sha256:").expect("a sha256 digest");
        let folder = self
            .blobs
            .join("docker/registry/v2/blobs/sha256")
            .join(&hex[..2])
            .join(hex);
        let path = folder.join("data");
        let mut data = fs::read(&path).expect("read the blob");
        let middle = data.len() / 2;
        data[middle] ^= 0xff;
        fs::write(&path, data).expect("write the blob");
    }

    /// One HTTP/1.0 request; the answer's head. Panics unless the status is 2xx.
    fn request(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("connect to the registry");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream
            .write_all(head.as_bytes())
            .expect("send the request's head");
        stream.write_all(body).expect("send the request's body");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read the answer");
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(status.starts_with('2'), "{method} {path}: {answer}");
        answer
    }
}

fn header(answer: &str, name: &str) -> Option<String> {
    answer.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name)
            .then(|| value.trim().to_owned())
    })
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Already ended is fine: nothing of it stays either way.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}
