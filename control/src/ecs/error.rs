//! Errors as ECS names them.

use serde_json::{Map, Value, json};

use crate::definition::{Invalid, Unsupported};
use crate::store::StoreError;

/// An error answer: `__type`, `message`, and for some errors more members.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{name}: {message}")]
pub struct Error {
    /// ECS's name.
    pub name: &'static str,
    /// For the caller.
    pub message: String,
    /// Members beside these two.
    pub more: Map<String, Value>,
}

impl Error {
    /// An error of this name.
    pub fn new(name: &'static str, message: impl Into<String>) -> Error {
        Error {
            name,
            message: message.into(),
            more: Map::new(),
        }
    }

    /// ClientException
    pub(super) fn client(message: impl Into<String>) -> Error {
        Error::new("ClientException", message)
    }

    /// InvalidParameterException
    pub(super) fn parameter(message: impl Into<String>) -> Error {
        Error::new("InvalidParameterException", message)
    }

    /// UnsupportedFeatureException, for a member of a request.
    pub(super) fn unsupported(member: &str) -> Error {
        Error::new(
            "UnsupportedFeatureException",
            format!("{member} is not supported by this version of Longshore."),
        )
    }

    /// ClusterNotFoundException
    pub(super) fn no_cluster() -> Error {
        Error::new("ClusterNotFoundException", "Cluster not found.")
    }

    /// ConflictException
    pub(super) fn conflict(message: impl Into<String>, resources: Vec<String>) -> Error {
        let mut error = Error::new("ConflictException", message);
        error.more.insert("resourceIds".into(), json!(resources));
        error
    }

    /// The HTTP status that goes with it.
    #[must_use]
    pub fn status(&self) -> u16 {
        if self.name == "ServerException" {
            500
        } else {
            400
        }
    }

    /// The body of the answer.
    #[must_use]
    pub fn body(&self) -> Value {
        let mut body = self.more.clone();
        body.insert("__type".into(), self.name.into());
        body.insert("message".into(), self.message.clone().into());
        Value::Object(body)
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Error {
        Error::client(invalid.0)
    }
}

impl From<Unsupported> for Error {
    fn from(unsupported: Unsupported) -> Error {
        Error::new("UnsupportedFeatureException", unsupported.to_string())
    }
}

impl From<StoreError> for Error {
    /// The operator reads what happened in the log, the caller that it did.
    fn from(error: StoreError) -> Error {
        tracing::error!(%error, "the store failed");
        Error::new(
            "ServerException",
            "The control plane could not read or write its store; its log says why.",
        )
    }
}
