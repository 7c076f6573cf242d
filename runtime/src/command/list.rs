//! `list`: all containers below `--root`.

use serde_json::Value;

use super::container::Container;
use super::global::Globals;
use super::options::{Arguments, Given, Opt};
use super::{Command, answer};
use crate::StepError;

pub(super) const COMMAND: Command = Command {
    name: "list",
    about: "List the containers below --root",
    details: "What cannot be read is left out with a warning in the log. A default --root that does not exist
holds no containers; one that was given and does not exist is an error.",
    options: &[
        Opt::value("format", "FORMAT", "table (default) or json.").or('f'),
        Opt::switch("quiet", "Print ids only.").or('q'),
    ],
    arguments: Arguments::NONE,
    enters: false,
    run,
};

fn run(globals: &Globals, given: &Given) -> Result<u8, StepError> {
    let as_json = is_json(given)?;
    let ids = globals.root()?.ids()?;
    if given.has("quiet") {
        return answer(&ids.iter().map(|id| format!("{id}\n")).collect::<String>());
    }
    let mut containers = Vec::new();
    for id in ids {
        match describe(globals, &id) {
            Ok(Some(container)) => containers.push(container),
            // Deleted since the directory was read.
            Ok(None) => {}
            Err(error) => globals.log.warning(&error.to_string()),
        }
    }
    match as_json {
        true => answer(&format!("{}\n", Value::from(containers))),
        false => answer(&table(&containers)),
    }
}

/// `--format json`, also of `ps`.
pub(super) fn is_json(given: &Given) -> Result<bool, StepError> {
    match given.text("format")? {
        None | Some("table") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => Err(StepError::refused(
            "read option",
            format!("--format {other}"),
            "it is none of table and json",
        )),
    }
}

fn describe(globals: &Globals, id: &str) -> Result<Option<Value>, StepError> {
    let Some(directory) = globals.root()?.find(id)? else {
        return Ok(None);
    };
    let container = Container::of(directory)?;
    let status = container.status()?;
    Ok(Some(container.to_json(status)))
}

/// Columns as wide as their widest cell.
fn table(containers: &[Value]) -> String {
    let columns = ["id", "pid", "status", "bundle", "created", "owner"];
    let text = |container: &Value, column: &str| match &container[column] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut rows = vec![columns.map(str::to_uppercase)];
    rows.extend(
        containers
            .iter()
            .map(|container| columns.map(|column| text(container, column))),
    );
    let width = |at: usize| {
        rows.iter()
            .map(|row| row[at].len())
            .max()
            .unwrap_or(0)
            .max(9)
            + 3
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        format!("{}\n", line.trim_end())
    };
    rows.iter().map(line).collect()
}
