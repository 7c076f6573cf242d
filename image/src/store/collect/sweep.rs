//! Carrying a plan out.
//!
//! A removal may be cut off anywhere. Names go first, then the manifest, and layers and blobs only after both are gone from
//! the disk for good, by a rename into `trash/`: a record that is there never leads to a layer that a collection removed. What a
//! cut-off removal leaves is what no image leads to, and goes next time. No lock is held across a removal.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::{Collected, Facts, GoneImage, Needed, Plan, size};
use crate::error::ImageError;
use crate::store::census::Entry;
use crate::store::layout::Layout;
use crate::store::lease::Collecting;

/// A layer that no image leads to is left alone for so long, unless the disk is full: a pull that was cut off comes back.
const LOOSE_LAYER: Duration = Duration::from_secs(60 * 60);

/// Carries a plan out, or says what that would do. Blocking.
pub(in crate::store) fn sweep(
    layout: &Layout,
    collecting: &Collecting<'_>,
    facts: &Facts<'_>,
    plan: &Plan<'_>,
    dry_run: bool,
) -> Result<Collected, ImageError> {
    let size = |path: &str| size(layout, path);
    let mut needed = Needed::of(facts.census);
    let mut collected = Collected {
        dry_run,
        in_use: plan.in_use,
        protected: plan.protected,
        used_percent: layout.fullness()?.percent(),
        ..Collected::default()
    };
    let mut gone: BTreeSet<&str> = BTreeSet::new();
    for (image, why) in &plan.images {
        if !remove_records(layout, collecting, image, dry_run)? {
            collected.in_use += 1;
            continue;
        }
        gone.insert(image.digest.as_str());
        let since = image.last_used.duration_since(SystemTime::UNIX_EPOCH);
        collected.images.push(GoneImage {
            digest: image.digest.to_string(),
            references: image.names.iter().map(|n| n.reference.clone()).collect(),
            why: *why,
            last_used: since.unwrap_or_default().as_secs(),
            bytes: needed.without(image, &size),
        });
    }
    remove_loose_names(layout, collecting, facts, dry_run)?;
    let nothing_went = gone.is_empty() && facts.census.loose_names.is_empty();
    if !dry_run && !nothing_went {
        // From here on no record leads to what is removed below, whatever happens to the host.
        layout.sync_directory("refs")?;
        layout.sync_directory("manifests")?;
    }
    let stay = |image: &&Entry| !gone.contains(image.digest.as_str());
    let images: Vec<&Entry> = facts.census.images.iter().filter(stay).collect();
    let configs: BTreeSet<String> = images.iter().filter_map(|image| image.config()).collect();
    for config in facts.census.configs.difference(&configs) {
        remove(layout, collecting, config, dry_run)?;
    }
    let needed: BTreeSet<String> = images.iter().flat_map(|image| image.paths()).collect();
    let was_an_images: BTreeSet<String> =
        facts.census.images.iter().flat_map(Entry::paths).collect();
    let all = facts.census.layers.union(&facts.census.blobs);
    for path in all.filter(|path| !needed.contains(*path)) {
        let loose = !was_an_images.contains(path);
        if facts.census.under_roots.contains_key(path)
            || (loose && !plan.at_once && is_fresh(layout, path, facts.now))
        {
            continue;
        }
        let bytes = size(path).0;
        if remove(layout, collecting, path, dry_run)? {
            match facts.census.blobs.contains(path) {
                true => collected.blobs += 1,
                false => collected.layers += 1,
            }
            collected.bytes = collected.bytes.saturating_add(bytes);
        }
    }
    Ok(collected)
}

/// Names first, then the manifest. False if somebody uses the image just now.
fn remove_records(
    layout: &Layout,
    collecting: &Collecting<'_>,
    image: &Entry,
    dry_run: bool,
) -> Result<bool, ImageError> {
    let files = image.names.iter().map(|name| name.file.clone());
    let all: Vec<String> = files.chain([image.manifest()]).collect();
    if dry_run {
        return Ok(!collecting.is_held(&all));
    }
    let removed =
        collecting.unless_held(&all, || all.iter().try_for_each(|file| layout.unlink(file)));
    removed.transpose().map(|removed| removed.is_some())
}

/// Names whose manifest is gone lead nowhere.
fn remove_loose_names(
    layout: &Layout,
    collecting: &Collecting<'_>,
    facts: &Facts<'_>,
    dry_run: bool,
) -> Result<(), ImageError> {
    if dry_run {
        return Ok(());
    }
    for name in &facts.census.loose_names {
        let files = [name.file.clone()];
        let removed = collecting.unless_held(&files, || layout.unlink(&name.file));
        removed.transpose()?;
    }
    Ok(())
}

/// False if somebody uses it just now, or it is gone already.
fn remove(
    layout: &Layout,
    collecting: &Collecting<'_>,
    path: &str,
    dry_run: bool,
) -> Result<bool, ImageError> {
    let names = [path.to_owned()];
    if dry_run {
        return Ok(!collecting.is_held(&names));
    }
    let removed = collecting.unless_held(&names, || layout.retire(path));
    Ok(removed.transpose()?.unwrap_or(false))
}

fn is_fresh(layout: &Layout, path: &str, now: SystemTime) -> bool {
    let Some(changed) = layout.changed(path) else {
        return false;
    };
    now.duration_since(changed).unwrap_or_default() < LOOSE_LAYER
}
