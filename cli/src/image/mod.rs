//! `longshore image`: the images of this host. Each verb reaches the store through the agent that has it open, or opens
//! it where none runs (`reach`); what it prints is the same.

mod bars;
mod collect;
mod df;
mod fsck;
mod inspect;
mod load;
mod ls;
mod names;
mod pull;
mod reach;
mod save;
mod work;

use anyhow::Result;

/// The images of this host: pull, list, look at, load, save, name and remove them
///
/// A host pulls by itself what its tasks need. These verbs are for an operator: to bring images to a host that reaches no
/// registry, to look at what is there, to take a copy away. They speak to the agent of the instance where one runs, and
/// open its image store themselves where none does; both need root.
///
/// An image is named by its reference (nginx:1.27, registry.example/team/app:7, nginx@sha256:...), by its digest or its ID (of the
/// configuration, as Docker has it), or by the beginning of either.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  longshore image pull nginx:1.27
  longshore image ls
  longshore image save nginx:1.27 | ssh host2 longshore image load -
  longshore image load --rootfs --tag base:1 rootfs.tar.zst

Exit status: 0 done, 1 failed (one sentence on standard error; nothing was changed, unless it says so), 2 wrong
arguments. What was asked for is on standard output, progress on standard error.")]
pub(crate) enum Image {
    Pull(pull::Pull),
    Ls(ls::Ls),
    Inspect(inspect::Inspect),
    Load(load::Load),
    Save(save::Save),
    Tag(names::Tag),
    Rm(names::Rm),
    Df(df::Df),
    Prune(collect::Prune),
    Gc(collect::Gc),
    Fsck(fsck::Fsck),
}

impl Image {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Image::Pull(verb) => verb.run(),
            Image::Ls(verb) => verb.run(),
            Image::Inspect(verb) => verb.run(),
            Image::Load(verb) => verb.run(),
            Image::Save(verb) => verb.run(),
            Image::Tag(verb) => verb.run(),
            Image::Rm(verb) => verb.run(),
            Image::Df(verb) => verb.run(),
            Image::Prune(verb) => verb.run(),
            Image::Gc(verb) => verb.run(),
            Image::Fsck(verb) => verb.run(),
        }
    }
}

/// `1.4 GB`, as registries and disks count: by thousands.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A digest as people read it.
fn short(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_by_thousands_and_never_as_a_thousand_of_a_unit() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (315_000_000, "315.0 MB"),
            (u64::MAX, "18446.7 PB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(human(bytes), text);
        }
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short("odd"), "odd");
    }
}
