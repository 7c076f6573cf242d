//! `linux.intelRdt`: the class of service and the monitoring group of a container.
//!
//! Source: runtime-spec config-linux.md "IntelRdt". `enableCMT` and `enableMBM` of older versions say nothing any
//! more: no hardware lets one choose between them.

use std::fmt;

use oci_spec::runtime::LinuxIntelRdt;
use serde::{Deserialize, Serialize};

use crate::StepError;

/// What a container asks of resctrl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resctrl {
    /// Name of the class of service; `/` is the default class. None: one of the container's own, by its id.
    pub class: Option<String>,
    /// Lines that a class which exists already must have: of `l3CacheSchema` and `memBwSchema`.
    pub fixed: Vec<String>,
    /// Lines that are written in any case, after the others: of `schemata`.
    pub schemata: Vec<String>,
    /// Whether it gets a monitoring group.
    pub monitoring: bool,
}

impl Resctrl {
    /// The lines of `l3CacheSchema` and `memBwSchema`; an empty one is none.
    pub(crate) fn lines(l3_cache: &str, memory: &str) -> Result<Vec<String>, StepError> {
        let mut lines = Vec::new();
        for (field, start, line) in [
            ("l3CacheSchema", "L3", l3_cache),
            ("memBwSchema", "MB:", memory),
        ] {
            if line.is_empty() {
                continue;
            }
            if !line.starts_with(start) || line.contains('\n') {
                let cause = format!("it must be one line that begins with `{start}`");
                return Err(refused(field, line, &cause));
            }
            lines.push(line.to_owned());
        }
        Ok(lines)
    }
}

pub(super) fn of(wanted: &LinuxIntelRdt) -> Result<Resctrl, StepError> {
    let class = wanted.clos_id().clone().filter(|class| !class.is_empty());
    if let Some(class) = &class {
        let name = class != "/"
            && (matches!(class.as_str(), "." | "..") || class.contains(['/', '\n', '\0']));
        if name {
            return Err(refused(
                "closID",
                class,
                "it must be the name of a directory, or `/`",
            ));
        }
    }
    let line = |line: &Option<String>| line.clone().unwrap_or_default();
    let fixed = Resctrl::lines(
        &line(wanted.l3_cache_schema()),
        &line(wanted.mem_bw_schema()),
    )?;
    let schemata = wanted.schemata().clone().unwrap_or_default();
    if let Some(line) = schemata.iter().find(|line| line.contains('\n')) {
        return Err(refused("schemata", line, "each element must be one line"));
    }
    let monitoring = wanted.enable_monitoring() == &Some(true);
    Ok(Resctrl {
        class,
        fixed,
        schemata,
        monitoring,
    })
}

fn refused(field: &str, value: &str, cause: &str) -> StepError {
    StepError::refused("plan", format!("intelRdt.{field} {value:?}"), cause)
}

impl fmt::Display for Resctrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "resctrl class {}",
            self.class.as_deref().unwrap_or("of its own")
        )?;
        for line in self.fixed.iter().chain(&self.schemata) {
            write!(f, ", {line}")?;
        }
        if self.monitoring {
            write!(f, ", monitored")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn planned(wanted: Value) -> Result<String, StepError> {
        of(&serde_json::from_value(wanted).unwrap()).map(|resctrl| resctrl.to_string())
    }

    #[test]
    fn schemata_are_written_in_the_order_of_the_text() {
        let wanted = json!({"closID": "gold", "schemata": ["L2:0=f", "MB:0=20"], "memBwSchema": "MB:0=50",
            "l3CacheSchema": "L3:0=7f0", "enableMonitoring": true});
        assert_eq!(
            planned(wanted).unwrap(),
            "resctrl class gold, L3:0=7f0, MB:0=50, L2:0=f, MB:0=20, monitored"
        );
        assert_eq!(planned(json!({})).unwrap(), "resctrl class of its own");
        assert_eq!(planned(json!({"closID": "/"})).unwrap(), "resctrl class /");
    }

    #[test]
    fn what_could_reach_another_class_or_line_is_refused() {
        for bad in [
            json!({"closID": ".."}),
            json!({"closID": "a/b"}),
            json!({"closID": "/a"}),
            json!({"closID": "a\n"}),
            json!({"memBwSchema": "L3:0=1"}),
            json!({"memBwSchema": "MB:0=1\nL3:0=1"}),
            json!({"l3CacheSchema": "x"}),
            json!({"schemata": ["MB:0=1\n"]}),
        ] {
            assert!(planned(bad.clone()).is_err(), "{bad}");
        }
    }
}
