//! Collecting what nobody needs: which images go, in which order, and the removal itself.
//!
//! Mark and sweep over the records that are on disk; nothing is counted up and down, so nothing can drift. An image
//! is needed if a task holds it, a container's root stands on it, a lease is on it, or its name is protected. What of the rest goes is the
//! policy's word: images unused for long, and while the file system is too full those that were used longest ago. Layers,
//! seams, blobs and configurations go when no image that stays leads to them.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::blobs;
use super::census::{Census, Entry, Name};
use super::inventory;
use super::layers;
use super::layout::{Fullness, Layout};

mod sweep;
pub(super) use sweep::sweep;

/// When images are removed by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GcPolicy {
    /// Removing begins when more than so many percent of the store's file system (of its bytes or of its inodes) are
    /// in use, as df(1) counts.
    pub high: u8,
    /// It ends when no more than so many are.
    pub low: u8,
    /// No image goes before it was unused for so long, however full the disk is.
    pub min_age: Duration,
    /// An image goes when it was unused for so long, however empty the disk is. None: never.
    pub max_age: Option<Duration>,
    /// Names that stay: patterns over the whole reference (`docker.io/library/busybox:1`), in which `*` stands for any
    /// characters and `?` for one.
    pub protected: Vec<String>,
}

impl Default for GcPolicy {
    /// From 85 % down to 80 %; nothing that was used within the last hour; nothing for its age alone.
    fn default() -> GcPolicy {
        GcPolicy {
            high: 85,
            low: 80,
            min_age: Duration::from_secs(60 * 60),
            max_age: None,
            protected: Vec::new(),
        }
    }
}

/// What `prune` removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prune {
    /// Images without a name.
    Dangling,
    /// All images that nobody needs.
    Unused,
}

/// Why an image goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// It was unused for too long.
    Age,
    /// The disk is too full, and of those that may go it was used longest ago.
    Disk,
    /// It has no name, or nobody needs it, and somebody asked.
    Asked,
    /// Its records are damaged.
    Damaged,
}

/// An image that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GoneImage {
    /// Digest of its manifest.
    pub digest: String,
    /// What it was called; nothing if its tag had moved on.
    pub references: Vec<String>,
    /// Why it goes.
    pub why: Why,
    /// Seconds since the Unix epoch, to the hour.
    pub last_used: u64,
    /// Bytes that are free without it and with all before it in the list gone, about.
    pub bytes: u64,
}

/// What a collection removed, or would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Collected {
    /// Nothing was removed: this is what would be.
    pub dry_run: bool,
    /// In the order in which they go.
    pub images: Vec<GoneImage>,
    /// Layers and seams that go, those that no image leads to included.
    pub layers: u64,
    /// Blobs that go.
    pub blobs: u64,
    /// Bytes that all of it takes on disk, about. They are free when the store's thread has removed the files.
    pub bytes: u64,
    /// Images that stay because a task holds them, a container's root stands on them, or somebody uses them just now.
    pub in_use: u64,
    /// Images that stay because of their names.
    pub protected: u64,
    /// Percent of the file system that were in use before.
    pub used_percent: u8,
}

/// What is asked of a collection.
#[derive(Debug)]
pub(super) enum Wish<'a> {
    Policy(&'a GcPolicy, Fullness),
    Prune(Prune),
    /// These images, by manifest digest.
    These(&'a BTreeSet<String>),
}

/// What a plan is made from.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) census: &'a Census,
    /// Manifest digests and references that tasks hold.
    pub(super) held: BTreeSet<String>,
    pub(super) protected: &'a [String],
    pub(super) now: SystemTime,
}

/// Which images go, and why; a pure decision.
#[derive(Debug, Default)]
pub(super) struct Plan<'a> {
    pub(super) images: Vec<(&'a Entry, Why)>,
    pub(super) in_use: u64,
    pub(super) protected: u64,
    /// The disk is too full: what no image leads to goes at once.
    pub(super) at_once: bool,
}

impl Facts<'_> {
    pub(super) fn is_in_use(&self, image: &Entry) -> bool {
        self.census.with_roots.contains(image.digest.as_str())
            || self.held.contains(image.digest.as_str())
            || image
                .names
                .iter()
                .any(|name| self.held.contains(&name.reference))
    }

    fn is_protected(&self, image: &Entry) -> bool {
        let matched = |name: &Name| self.protected.iter().any(|p| matches(p, &name.reference));
        image.names.iter().any(matched)
    }

    fn unused_for(&self, image: &Entry) -> Duration {
        // A time in the future is a clock that was set back: used just now.
        let since = self.now.duration_since(image.last_used);
        since.unwrap_or_default()
    }
}

/// Which images go. `size` tells what a layer takes on disk: bytes and inodes.
pub(super) fn plan<'a>(
    facts: &Facts<'a>,
    wish: &Wish<'_>,
    size: &dyn Fn(&str) -> (u64, u64),
) -> Plan<'a> {
    let mut plan = Plan::default();
    let mut may_go: Vec<&Entry> = Vec::new();
    for image in &facts.census.images {
        let asked_for = matches!(wish, Wish::These(these) if these.contains(image.digest.as_str()));
        if facts.is_in_use(image) {
            plan.in_use += 1;
        } else if facts.is_protected(image) && !asked_for {
            plan.protected += 1;
        } else {
            may_go.push(image);
        }
    }
    // Nameless ones first; of the rest the one that was used longest ago.
    may_go.sort_by_key(|image| (!image.names.is_empty(), image.last_used));
    match wish {
        Wish::These(these) => {
            let asked = may_go
                .into_iter()
                .filter(|i| these.contains(i.digest.as_str()));
            plan.images.extend(asked.map(|image| (image, Why::Asked)));
        }
        Wish::Prune(which) => {
            let goes = |image: &&Entry| *which == Prune::Unused || image.names.is_empty();
            let asked = may_go.into_iter().filter(goes);
            plan.images.extend(asked.map(|image| (image, Why::Asked)));
            plan.at_once = *which == Prune::Unused;
        }
        Wish::Policy(policy, fullness) => {
            by_policy(facts, policy, *fullness, may_go, size, &mut plan)
        }
    }
    plan
}

fn by_policy<'a>(
    facts: &Facts<'a>,
    policy: &GcPolicy,
    fullness: Fullness,
    may_go: Vec<&'a Entry>,
    size: &dyn Fn(&str) -> (u64, u64),
    plan: &mut Plan<'a>,
) {
    let mut needed = Needed::of(facts.census);
    let mut rest = Vec::new();
    for image in may_go {
        let unused = facts.unused_for(image);
        if unused < policy.min_age {
            continue;
        }
        let why = match (&image.layers, policy.max_age) {
            (None, _) => Some(Why::Damaged),
            (_, Some(max)) if unused >= max => Some(Why::Age),
            _ => None,
        };
        match why {
            Some(why) => {
                needed.without(image, size);
                plan.images.push((image, why));
            }
            None => rest.push(image),
        }
    }
    let too_much = fullness.above(policy.high, policy.low);
    let Some(too_much) = too_much else {
        return;
    };
    plan.at_once = true;
    needed.without_loose(facts.census, size);
    for image in rest {
        if needed.freed.0 >= too_much.0 && needed.freed.1 >= too_much.1 {
            break;
        }
        needed.without(image, size);
        plan.images.push((image, Why::Disk));
    }
}

/// How many images lead to each layer and blob; made for one plan and thrown away with it.
struct Needed {
    layers: HashMap<String, usize>,
    /// Bytes and inodes.
    freed: (u64, u64),
}

impl Needed {
    fn of(census: &Census) -> Needed {
        let mut layers: HashMap<String, usize> = HashMap::new();
        for image in &census.images {
            let paths: BTreeSet<String> = image.paths().collect();
            for path in paths {
                *layers.entry(path).or_default() += 1;
            }
        }
        for path in census.under_roots.keys() {
            *layers.entry(path.clone()).or_default() += 1;
        }
        Needed {
            layers,
            freed: (0, 0),
        }
    }

    /// What else is free without this image.
    fn without(&mut self, image: &Entry, size: &dyn Fn(&str) -> (u64, u64)) -> u64 {
        let before = self.freed.0;
        let paths: BTreeSet<String> = image.paths().collect();
        for path in paths {
            if let Some(images) = self.layers.get_mut(&path) {
                *images = images.saturating_sub(1);
                if *images == 0 {
                    self.free(size(&path));
                }
            }
        }
        self.freed.0 - before
    }

    fn without_loose(&mut self, census: &Census, size: &dyn Fn(&str) -> (u64, u64)) {
        for path in census.layers.union(&census.blobs) {
            if !self.layers.contains_key(path) {
                self.free(size(path));
            }
        }
    }

    fn free(&mut self, (bytes, files): (u64, u64)) {
        self.freed.0 = self.freed.0.saturating_add(bytes);
        self.freed.1 = self.freed.1.saturating_add(files);
    }
}

impl Fullness {
    /// Percent in use, of bytes or of inodes, whichever is more; rounded up, as df(1) does.
    pub(super) fn percent(&self) -> u8 {
        let of = |used: u64, free: u64| {
            let all = u128::from(used) + u128::from(free);
            match all {
                0 => 0,
                all => (u128::from(used) * 100).div_ceil(all),
            }
        };
        let bytes = of(self.bytes_used, self.bytes_free);
        let files = of(self.files_used, self.files_free);
        u8::try_from(bytes.max(files)).unwrap_or(100)
    }

    /// How many bytes and inodes must go to come to `low` percent; None unless more than `high` are in use.
    fn above(&self, high: u8, low: u8) -> Option<(u64, u64)> {
        if self.percent() <= high {
            return None;
        }
        let over = |used: u64, free: u64| {
            let all = u128::from(used) + u128::from(free);
            let allowed = all * u128::from(low) / 100;
            u64::try_from(u128::from(used).saturating_sub(allowed)).unwrap_or(u64::MAX)
        };
        let bytes = over(self.bytes_used, self.bytes_free);
        let files = over(self.files_used, self.files_free);
        Some((bytes, files))
    }
}

/// Whether a reference matches a pattern.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and how much of the text it stood for so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') => (p, t) = (p + 1, t + 1),
            Some(byte) if *byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => match &mut star {
                Some((at, eaten)) => {
                    *eaten += 1;
                    (p, t) = (*at + 1, *eaten);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Bytes and inodes of a layer: from its inventory, or about, from the archive that it was. Of a blob: its own.
pub(super) fn size(layout: &Layout, path: &str) -> (u64, u64) {
    if blobs::is_whole(layout, path) {
        return blobs::size(layout, path);
    }
    if !layers::is_whole(layout, path) {
        return (0, 0);
    }
    if let Some(found) = inventory::of(layout, path) {
        return (found.on_disk, found.names);
    }
    match layers::outline_at(layout, path) {
        Ok(outline) => (outline.bytes, outline.entries),
        Err(_) => (0, 0),
    }
}

#[cfg(test)]
mod tests;
