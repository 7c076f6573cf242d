//! The file of variables that any ECS client understands: endpoint, region, keys. 0600, written whole or not
//! at all; the secret is printed nowhere.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Result, anyhow};

/// What a client needs. No `Debug`: it holds the secret.
pub(crate) struct Keys<'a> {
    pub(crate) api: SocketAddr,
    pub(crate) region: &'a str,
    pub(crate) access_key_id: &'a str,
    pub(crate) secret_access_key: &'a str,
}

/// Writes the file beside its place and renames it there: a reader sees the old one or the new one.
pub(crate) fn write(file: &Path, keys: &Keys<'_>) -> Result<()> {
    let beside = file.with_extension("env.new");
    write_and_rename(&beside, file, keys).map_err(|error| {
        // Half a key file is of no use, and the disk may be full.
        std::fs::remove_file(&beside).ok();
        anyhow!(
            "write key file {}: {error}; {}",
            file.display(),
            remedy(error.kind())
        )
    })
}

fn write_and_rename(beside: &Path, file: &Path, keys: &Keys<'_>) -> io::Result<()> {
    let mut new = private(beside)?;
    new.write_all(text(keys).as_bytes())?;
    new.sync_all()?;
    std::fs::rename(beside, file)
}

fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free space on its file system and start again"
        }
        _ => "make its folder writable, or choose another with --state-dir, and start again",
    }
}

/// A new file that only its owner may read. One that is left from a crash is removed first, because its mode
/// would be kept.
fn private(file: &Path) -> io::Result<File> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
}

fn text(keys: &Keys<'_>) -> String {
    let lines = [
        ("AWS_ENDPOINT_URL_ECS", format!("http://{}", keys.api)),
        ("AWS_REGION", keys.region.to_owned()),
        ("AWS_DEFAULT_REGION", keys.region.to_owned()),
        ("AWS_ACCESS_KEY_ID", keys.access_key_id.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", keys.secret_access_key.to_owned()),
    ];
    let quoted = |value: &str| format!("'{}'", value.replace('\'', r"'\''"));
    lines
        .iter()
        .map(|(name, value)| format!("export {name}={}\n", quoted(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn keys(secret: &str) -> Keys<'_> {
        Keys {
            api: "127.0.0.1:4480".parse().unwrap(),
            region: "us-east-1",
            access_key_id: "AKIAX",
            secret_access_key: secret,
        }
    }

    #[test]
    fn the_file_is_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dev.env");
        std::fs::write(dir.path().join("dev.env.new"), "left by a crash").unwrap();
        write(&file, &keys("first")).unwrap();
        write(&file, &keys("second")).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("export AWS_ENDPOINT_URL_ECS='http://127.0.0.1:4480'\n"));
        assert!(text.contains("export AWS_SECRET_ACCESS_KEY='second'\n"));
        assert!(!text.contains("first"));
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind_and_names_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dev.env");
        // A folder in its place: all is written, and the renaming fails.
        std::fs::create_dir(&file).unwrap();
        let error = write(&file, &keys("s")).unwrap_err().to_string();
        assert!(
            error.contains("dev.env: ") && error.contains("--state-dir"),
            "{error}"
        );
        assert!(!dir.path().join("dev.env.new").exists());
        assert!(remedy(ErrorKind::StorageFull).contains("free space"));
    }

    #[test]
    fn a_shell_reads_any_secret_back() {
        let text = text(&keys("a'b$c`d\\"));
        assert!(text.contains(r"AWS_SECRET_ACCESS_KEY='a'\''b$c`d\'"));
    }
}
