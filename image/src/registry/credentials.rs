//! Who we are to a registry: docker's and podman's files and helpers, then Amazon ECR.
//!
//! Looked up anew whenever a registry asks or refuses, and every few minutes: so a login or logout counts. A file that
//! cannot be read or understood is an error and not a missing login: an anonymous pull in its place would fail for a
//! reason that misleads. One that is not there may come yet: who is refused is told where we look.

pub(crate) mod config_file;
pub(crate) mod ecr;
pub(crate) mod helper;
pub(crate) mod sigv4;

use std::fmt;

use super::fault::Fault;
use super::settings::Registries;
use super::transport::{Ask, Transport};
use crate::error::ImageError;
use config_file::Entry;

/// How to be somebody at a registry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Login {
    /// User and password.
    Password { username: String, password: String },
    /// A refresh token that the token service exchanges for others ("identity token").
    Identity(String),
    /// A token that the registry itself takes.
    Token(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Login::Password { .. } => "Password",
            Login::Identity(_) => "Identity",
            Login::Token(_) => "Token",
        })
    }
}

/// The places to look, and what ECR told us.
#[derive(Debug)]
pub(crate) struct Credentials {
    ecr: ecr::Tokens,
}

impl Credentials {
    pub(crate) fn new() -> Credentials {
        Credentials {
            ecr: ecr::Tokens::default(),
        }
    }

    /// The login for the registry and repository that `ask` is for.
    pub(crate) async fn login(
        &self,
        transport: &Transport,
        registries: &Registries,
        ask: &Ask<'_>,
        repository: &str,
    ) -> Result<Option<Login>, Fault> {
        if let Some(login) = in_files(registries, ask.authority, repository).await? {
            return Ok(Some(login));
        }
        self.ecr.login(transport, registries, ask).await
    }

    /// Forgets what was told for a registry that did not want it.
    pub(crate) fn refused(&self, authority: &str) {
        self.ecr.forget(authority);
    }
}

async fn in_files(
    registries: &Registries,
    authority: &str,
    repository: &str,
) -> Result<Option<Login>, ImageError> {
    for path in &registries.credential_files {
        let Some(file) = config_file::read(path).await? else {
            continue;
        };
        let login = match file.entry(authority, repository) {
            Some(Entry::Login(login)) => Some(login),
            Some(Entry::Helper { name, server }) => helper::get(&name, &server).await?,
            Some(Entry::Unreadable) => {
                let cause = format!(
                    "its `auth` for {authority} is no user and password in base64; log in again"
                );
                return Err(ImageError::new("read credentials", path.display(), cause));
            }
            None => None,
        };
        if login.is_some() {
            return Ok(login);
        }
    }
    Ok(None)
}

/// Where logins are looked for, for the words of a refusal: a typing error in a file's name shows here.
pub(crate) async fn places(registries: &Registries) -> String {
    let mut places = Vec::new();
    for path in &registries.credential_files {
        let there = tokio::fs::try_exists(path).await.unwrap_or(true);
        let missing = if there { "" } else { " (which is not there)" };
        places.push(format!("{}{missing}", path.display()));
    }
    match places.is_empty() {
        true => "; no file for logins is named".to_owned(),
        false => format!("; logins are looked for in {}", places.join(", ")),
    }
}
