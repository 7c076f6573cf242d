//! The terminal of a process, if its spec asks for one.

use oci_spec::runtime::Process;

use super::step::{Step, Terminal};
use crate::StepError;

/// For a container's first process: its terminal is the container's console too.
pub(super) fn for_init(process: &Process) -> Result<Option<Step>, StepError> {
    planned(process, true)
}

/// For a process that joins.
pub(super) fn for_exec(process: &Process) -> Result<Option<Step>, StepError> {
    planned(process, false)
}

/// A size without a terminal means nothing, says the OCI text; nor does a size of nothing.
fn planned(process: &Process, console: bool) -> Result<Option<Step>, StepError> {
    if process.terminal() != Some(true) {
        return Ok(None);
    }
    let size = process
        .console_size()
        .map(|size| (size.height(), size.width()));
    let size = size
        .filter(|size| *size != (0, 0))
        .map(narrow)
        .transpose()?;
    Ok(Some(Step::Terminal(Terminal {
        owner: process.user().uid(),
        size,
        console,
    })))
}

fn narrow((rows, columns): (u64, u64)) -> Result<(u16, u16), StepError> {
    match (u16::try_from(rows), u16::try_from(columns)) {
        (Ok(rows), Ok(columns)) => Ok((rows, columns)),
        _ => Err(StepError::refused(
            "plan terminal",
            format!("process.consoleSize {rows} by {columns}"),
            "a terminal has at most 65535 rows and columns",
        )),
    }
}
