//! resctrl: a container's class of service and its monitoring group, in the host's /sys/fs/resctrl.
//!
//! ```text
//!   /sys/fs/resctrl/schemata, tasks          the default class, closID `/`
//!                  /CLASS/schemata, tasks    closID, or the container's id
//!                  /CLASS/mon_groups/ID/tasks
//! ```
//! Deliberately absent: mounting the file system, and every use of it where a spec says nothing of intelRdt.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::StepError;
use crate::error::Context;
use crate::plan::Resctrl;

const ROOT: &str = "/sys/fs/resctrl";
/// RDTGROUP_SUPER_MAGIC of linux/magic.h.
const MAGIC: rustix::fs::FsWord = 0x0765_5821;
const STEP: &str = "set up resctrl";

/// Puts a process into the container's class, made if it must be, and into its monitoring group.
pub(crate) fn enter(wanted: &Resctrl, id: &str, pid: u32) -> Result<(), StepError> {
    match rustix::fs::statfs(ROOT) {
        Ok(statfs) if statfs.f_type == MAGIC => enter_below(Path::new(ROOT), wanted, id, pid),
        _ => {
            let cause = "no resctrl file system is mounted there, and the spec has linux.intelRdt; mount it or remove that";
            Err(StepError::refused(STEP, ROOT, cause))
        }
    }
}

/// Writes other lines for the class of a container that lives. Without a class of service there is none to change.
pub(crate) fn update(
    wanted: Option<&Resctrl>,
    id: &str,
    lines: &[String],
) -> Result<(), StepError> {
    update_below(Path::new(ROOT), wanted, id, lines)
}

fn update_below(
    root: &Path,
    wanted: Option<&Resctrl>,
    id: &str,
    lines: &[String],
) -> Result<(), StepError> {
    let Some(wanted) = wanted else {
        let cause = "it has no class of service to change; create it with linux.intelRdt in its config.json";
        return Err(StepError::refused("update resctrl of", id, cause));
    };
    let schemata = class(root, wanted, id).join("schemata");
    write(root, &schemata, &format!("{}\n", lines.join("\n")))
}

/// Removes what was made for the container: fine if nothing was, or is.
pub(crate) fn remove(wanted: &Resctrl, id: &str) -> Result<(), StepError> {
    remove_below(Path::new(ROOT), wanted, id)
}

fn class(root: &Path, wanted: &Resctrl, id: &str) -> PathBuf {
    match wanted.class.as_deref() {
        Some("/") => root.to_owned(),
        Some(class) => root.join(class),
        None => root.join(id),
    }
}

fn enter_below(root: &Path, wanted: &Resctrl, id: &str, pid: u32) -> Result<(), StepError> {
    let class = class(root, wanted, id);
    let made = make_class(&class, wanted)?;
    if !made {
        compare(&class, &wanted.fixed)?;
    }
    let lines: Vec<&str> = if made { wanted.fixed.iter() } else { [].iter() }
        .chain(&wanted.schemata)
        .map(String::as_str)
        .collect();
    if !lines.is_empty() {
        let text = format!("{}\n", lines.join("\n"));
        write(root, &class.join("schemata"), &text)?;
    }
    // Monitoring groups are the class's: the process must be in the class first.
    write(root, &class.join("tasks"), &pid.to_string())?;
    if wanted.monitoring {
        let group = class.join("mon_groups").join(id);
        make(&group)?;
        write(root, &group.join("tasks"), &pid.to_string())?;
    }
    Ok(())
}

/// Whether this call made it. A class that is named and gets no schema must be there already.
fn make_class(class: &Path, wanted: &Resctrl) -> Result<bool, StepError> {
    let named_only =
        wanted.class.is_some() && wanted.fixed.is_empty() && wanted.schemata.is_empty();
    if !named_only {
        return make(class);
    }
    if class.is_dir() {
        return Ok(false);
    }
    let cause = "the spec names this class and no schema for it, so it must exist; make it or give a schema";
    Err(StepError::refused(STEP, class.display(), cause))
}

fn make(directory: &Path) -> Result<bool, StepError> {
    match std::fs::create_dir(directory) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(StepError::io(
            "make resctrl group",
            directory.display(),
            error,
        )),
    }
}

/// The kernel pads each line to the left of its name.
fn compare(class: &Path, fixed: &[String]) -> Result<(), StepError> {
    if fixed.is_empty() {
        return Ok(());
    }
    let path = class.join("schemata");
    let text = std::fs::read_to_string(&path).context("read", path.display())?;
    match fixed
        .iter()
        .find(|wanted| !text.lines().any(|line| line.trim() == wanted.trim()))
    {
        None => Ok(()),
        Some(missing) => {
            let cause = format!(
                "the class exists and has not the line `{missing}`; choose another closID or schema"
            );
            Err(StepError::refused(STEP, path.display(), cause))
        }
    }
}

/// The kernel keeps the reason of its last refusal in a file.
fn write(root: &Path, path: &Path, text: &str) -> Result<(), StepError> {
    std::fs::write(path, text).map_err(|error| {
        let reason = std::fs::read_to_string(root.join("info/last_cmd_status")).unwrap_or_default();
        let refused = StepError::io("write", path.display(), error);
        match reason.trim() {
            "" | "ok" => refused,
            reason => StepError {
                cause: format!("{} ({reason})", refused.cause),
                ..refused
            },
        }
    })
}

fn remove_below(root: &Path, wanted: &Resctrl, id: &str) -> Result<(), StepError> {
    let class = class(root, wanted, id);
    let mut made = Vec::new();
    if wanted.monitoring {
        made.push(class.join("mon_groups").join(id));
    }
    if wanted.class.is_none() {
        made.push(class);
    }
    for directory in made {
        match std::fs::remove_dir(&directory) {
            Err(error)
                if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Err(StepError::io(
                    "remove resctrl group",
                    directory.display(),
                    error,
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
