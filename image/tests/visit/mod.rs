//! One pull by somebody, into a store of its own.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use longshore_image::{Image, Registries, Registry as Settings, Store};
use serde_json::{Value, json};

use crate::registry::{Auth, Registry, tar_of};

pub async fn pull(registries: Registries, reference: &str) -> Result<Image, String> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), registries).map_err(|e| e.to_string())?;
    let pulled = store.pull(reference, |_| {}).await;
    pulled.map_err(|e| e.to_string())
}

pub async fn registry_with(auth: Auth) -> Registry {
    let registry = Registry::start().await;
    registry.push("a/b", "t", &[tar_of(&[("f", b"x")])]);
    registry.state().auth = auth;
    registry
}

pub fn settings(name: &str, settings: Settings) -> Registries {
    Registries {
        registries: [(name.to_owned(), settings)].into(),
        ..Registries::default()
    }
}

/// What docker calls `auth` in a login file.
pub fn pair(user: &str, password: &str) -> String {
    STANDARD.encode(format!("{user}:{password}"))
}

/// A login file; gone when dropped.
pub struct Login(tempfile::NamedTempFile);

impl Login {
    pub fn new(authority: &str, user: &str, password: &str) -> Login {
        Login::of(json!({"auths": {authority: {"auth": pair(user, password)}}}))
    }

    pub fn of(content: Value) -> Login {
        let login = Login(tempfile::NamedTempFile::new().unwrap());
        login.write(content);
        login
    }

    pub fn write(&self, content: Value) {
        std::fs::write(self.path(), content.to_string()).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn registries(&self) -> Registries {
        Registries {
            credential_files: vec![self.path().to_owned()],
            ..Registries::default()
        }
    }
}
