//! Requests, read with types. What is of the wrong type is refused with the member's path, what was given, and what it may be.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Error, mistyped};
use crate::model::Tag;

/// Reads a request. Unknown members are ignored, as AWS ignores them.
pub(super) fn read<T: DeserializeOwned>(body: &Value) -> Result<T, Error> {
    serde_path_to_error::deserialize(body).map_err(|error| {
        let path = error.path().clone();
        let cause = error.into_inner().to_string();
        // A number out of range or a word that ECS does not know is the caller's mistake about ECS; all
        // else is one about the types.
        let about_ecs = ["invalid value", "unknown variant"];
        let name = match about_ecs.iter().any(|start| cause.starts_with(start)) {
            true => "ClientException",
            false => "SerializationException",
        };
        let sentence = mistyped::sentence(body, &path, &cause);
        Error::new(name, format!("Invalid value at '{path}': {sentence}"))
    })
}

/// `null` says the same as leaving the member out. Depth is bounded by the parser.
pub(super) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => members
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// `tags` of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tags {
    pub(super) tags: Vec<Tag>,
}

/// Refuses lists that are longer than ECS takes.
pub(super) fn at_most<T>(name: &str, list: &[T], most: usize) -> Result<(), Error> {
    if list.len() > most {
        return Err(Error::parameter(format!(
            "{name} can have at most {most} items."
        )));
    }
    Ok(())
}

/// Whether `include` names `what`; a word that is none of `known` is refused.
pub(super) fn includes(include: &[String], what: &str, known: &[&str]) -> Result<bool, Error> {
    match include.iter().find(|word| !known.contains(&word.as_str())) {
        None => Ok(include.iter().any(|word| word == what)),
        Some(word) => Err(Error::parameter(format!(
            "Invalid include '{word}'. Must be one of [{}].",
            known.join(", ")
        ))),
    }
}
