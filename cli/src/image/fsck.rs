//! `longshore image fsck`.

use std::io::IsTerminal as _;
use std::sync::Mutex;

use anyhow::{Result, bail};
use longshore_image::{FsckProgress, FsckReport, Registries};
use serde_json::Value;

use super::human;
use super::reach::{Reach, Want};
use crate::place::Place;
use crate::ps::text;
use crate::{socket, telling};

/// Verify all that is stored
///
/// Reads every layer. What is damaged is set aside: no task gets it, and the next pull fetches it again. Tasks and pulls go on
/// meanwhile.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 nothing is damaged, or all that was is repaired; 1 something is damaged."
)]
pub(crate) struct Fsck {
    #[command(flatten)]
    place: Place,
    /// Remove what is damaged and nobody stands on
    #[arg(long)]
    repair: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Fsck {
    pub(crate) fn run(self) -> Result<()> {
        let report = match Reach::of(&self.place, Want::Look, &Registries::default())? {
            Reach::Agent(agent) => {
                let path = format!("/v1/images/fsck?repair={}", self.repair);
                socket::block_on(socket::post(&agent, &path, &Value::Null))?
            }
            Reach::Store(store) => {
                let line = Line::default();
                let report = store.fsck(self.repair, &|progress| line.show(&progress));
                line.clear();
                serde_json::to_value(report?)?
            }
            Reach::Nothing => serde_json::to_value(FsckReport::default())?,
        };
        telling::print(&match self.json {
            true => format!("{report:#}\n"),
            false => words(&report),
        })?;
        match left(&report) {
            0 => Ok(()),
            n => bail!(
                "verify images: {n} damaged; longshore image fsck --repair removes what can be removed"
            ),
        }
    }
}

/// What is damaged and still there.
fn left(report: &Value) -> usize {
    let damaged = report["Damaged"].as_array().into_iter().flatten();
    damaged.filter(|damage| damage["Done"] != "removed").count()
}

fn words(report: &Value) -> String {
    let mut out = String::new();
    for damage in report["Damaged"].as_array().into_iter().flatten() {
        let names: Vec<&str> = damage["References"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .collect();
        let of = match names.is_empty() {
            true => String::new(),
            false => format!(" (of {})", names.join(", ")),
        };
        let roots = damage["Done"]["in-use"].as_array();
        let done = match roots {
            Some(roots) => {
                let roots: Vec<&str> = roots.iter().map(text).collect();
                format!("set aside, in use by {}", roots.join(", "))
            }
            None => text(&damage["Done"]).replace('-', " "),
        };
        out.push_str(&format!(
            "{}{of}: {}: {done}\n",
            text(&damage["Path"]),
            text(&damage["Cause"])
        ));
    }
    let unproven = report["Unproven"].as_array().map_or(0, Vec::len);
    let counted = |of: &Value, one, many| {
        let number = of.as_u64().unwrap_or(0);
        telling::count(usize::try_from(number).unwrap_or(usize::MAX), one, many)
    };
    out.push_str(&format!(
        "{}, {} and {} verified, {} read; {} without an inventory\n",
        counted(&report["Images"], "image", "images"),
        counted(&report["Layers"], "layer", "layers"),
        counted(&report["Blobs"], "blob", "blobs"),
        human(report["Bytes"].as_u64().unwrap_or(0)),
        telling::count(unproven, "layer", "layers"),
    ));
    out
}

/// One line on a terminal that says how far it is.
#[derive(Default)]
struct Line(Mutex<(usize, usize)>);

impl Line {
    fn show(&self, progress: &FsckProgress) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let Ok(mut place) = self.0.lock() else { return };
        let bytes = match progress {
            FsckProgress::Layer { at, of, .. } => {
                *place = (*at, *of);
                return;
            }
            FsckProgress::Read(bytes) => *bytes,
        };
        eprint!(
            "\rlayer {} of {}, {} read \x1b[K",
            place.0,
            place.1,
            human(bytes)
        );
    }

    fn clear(&self) {
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_image::{Damage, Done};

    #[test]
    fn damage_is_told_with_its_cause_and_what_became_of_it() {
        let damage = |done| Damage {
            path: "layers/sha256/aa".to_owned(),
            cause: "3 names, 4 expected".to_owned(),
            references: vec!["a:1".to_owned()],
            done,
        };
        let report = FsckReport {
            images: 1,
            layers: 2,
            blobs: 3,
            bytes: 1000,
            damaged: vec![
                damage(Done::Removed),
                damage(Done::SetAside),
                damage(Done::InUse(vec!["r".to_owned()])),
            ],
            unproven: vec!["x".to_owned()],
        };
        let report = serde_json::to_value(report).unwrap();
        assert_eq!(left(&report), 2);
        let text = words(&report);
        let begin = "layers/sha256/aa (of a:1): 3 names, 4 expected: ";
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("{begin}removed"));
        assert_eq!(lines[1], format!("{begin}set aside"));
        assert_eq!(lines[2], format!("{begin}set aside, in use by r"));
        assert_eq!(
            lines[3],
            "1 image, 2 layers and 3 blobs verified, 1.0 kB read; 1 layer without an inventory"
        );
    }
}
