//! Verifying what is stored: records against the digests that name them, layers against their inventories.
//!
//! What is damaged is set aside, so that no pull and no new container takes it for whole: the next pull of an image that
//! needs it fetches it again. With repair it is removed, unless a container's root stands on it: that keeps what it has until it
//! ends. Decision 0018 says what a good answer proves and what it does not.
//!
//! A blob that is kept proves itself by its digest. No image needs one: a damaged one is missing from exact copies only.
//!
//! It runs beside pulls and containers. A layer is held by a lease while it is looked at; what it removes it removes as a
//! collection does, so that what a pull under way needs stays.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use super::blobs;
use super::caretaker::NONE_POSSIBLE;
use super::census::{Census, Entry, census, reread};
use super::inventory::{self, NoInventory};
use super::layers;
use super::layout::Layout;
use super::lease::Leases;
use super::records;
use super::stack;
use crate::digest::Digest;
use crate::error::ImageError;

/// What `fsck` found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct FsckReport {
    /// Images that were looked at.
    pub images: u64,
    /// Layers and seams whose trees were compared with their inventories.
    pub layers: u64,
    /// Blobs whose digests were compared with their names.
    pub blobs: u64,
    /// Bytes that were read for it.
    pub bytes: u64,
    /// What is wrong; empty if nothing is.
    pub damaged: Vec<Damage>,
    /// Layers and seams that nothing can be said of, by path: no inventory was taken yet, or none can be.
    pub unproven: Vec<String>,
}

/// One thing that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Damage {
    /// Path below the store.
    pub path: String,
    /// What is wrong with it.
    pub cause: String,
    /// References of images that need it.
    pub references: Vec<String>,
    /// What became of it.
    pub done: Done,
}

/// What became of a damaged thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Done {
    /// Nothing takes it for whole any more; it is still there to be looked at.
    SetAside,
    /// It is gone.
    Removed,
    /// It is set aside, and stays until these roots (of containers) are gone.
    InUse(Vec<String>),
}

/// What `fsck` tells while it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FsckProgress {
    /// It compares the layer, seam or blob of this path, the `at`-th of `of`.
    Layer {
        /// Path below the store.
        path: String,
        /// From 1.
        at: usize,
        /// In all.
        of: usize,
    },
    /// Bytes read so far, of all layers.
    Read(u64),
}

/// One run.
pub(super) struct Fsck<'a> {
    pub(super) layout: &'a Layout,
    pub(super) leases: &'a Arc<Leases>,
    pub(super) repair: bool,
    pub(super) progress: &'a dyn Fn(FsckProgress),
}

impl Fsck<'_> {
    pub(super) fn run(&self) -> Result<FsckReport, ImageError> {
        let mut report = FsckReport::default();
        // Reading a record compares it with its digest and sets aside what is not as it should be.
        let census = census(self.layout)?;
        report.images = census.images.len() as u64;
        self.aside(&mut report)?;
        for image in &census.images {
            self.image(&census, image, &mut report)?;
        }
        for name in &census.loose_names {
            self.loose_name(&name.file, &name.reference, &mut report)?;
        }
        let all = census.layers.iter().chain(&census.blobs);
        let of = census.layers.len() + census.blobs.len();
        for (at, path) in all.enumerate() {
            (self.progress)(FsckProgress::Layer {
                path: path.clone(),
                at: at + 1,
                of,
            });
            match census.blobs.contains(path) {
                true => self.blob(&census, path, &mut report)?,
                false => self.layer(&census, path, &mut report)?,
            }
        }
        Ok(report)
    }

    /// Records that were set aside, now or earlier.
    fn aside(&self, report: &mut FsckReport) -> Result<(), ImageError> {
        for directory in ["refs", "manifests", "configs"] {
            for name in self.layout.list(directory)? {
                if !name.ends_with(".bad") {
                    continue;
                }
                let path = format!("{directory}/{name}");
                if self.repair {
                    self.layout.unlink(&path)?;
                }
                report.damaged.push(Damage {
                    path,
                    cause: "its bytes are not those of its name".to_owned(),
                    references: Vec::new(),
                    done: done(self.repair),
                });
            }
        }
        Ok(())
    }

    /// An image whose manifest or configuration is damaged or gone. The records that are left of it lead nowhere; a
    /// pull writes them anew whether or not they are there.
    fn image(
        &self,
        census: &Census,
        image: &Entry,
        report: &mut FsckReport,
    ) -> Result<(), ImageError> {
        let Some(cause) = self.wrong_with(image) else {
            return Ok(());
        };
        let files = image.names.iter().map(|name| name.file.clone());
        let all: Vec<String> = files.chain([image.manifest()]).collect();
        let removed = !census.with_roots.contains(image.digest.as_str())
            && self.remove(
                &all,
                || reread(self.layout, image).is_ok_and(|now| self.wrong_with(&now).is_some()),
                || all.iter().try_for_each(|file| self.layout.unlink(file)),
            )?;
        report.damaged.push(Damage {
            path: image.manifest(),
            cause,
            references: references(image),
            done: done(removed),
        });
        Ok(())
    }

    fn wrong_with(&self, image: &Entry) -> Option<String> {
        match (&image.config, &image.layers) {
            (Some(_), Some(diff_ids)) => self.missing(diff_ids),
            (Some(_), None) => Some("its configuration is missing or damaged".to_owned()),
            (None, _) => Some("it is no manifest that can be read".to_owned()),
        }
    }

    fn missing(&self, diff_ids: &[Digest]) -> Option<String> {
        let missing = diff_ids
            .iter()
            .find(|id| !layers::is_present(self.layout, id));
        if let Some(missing) = missing {
            return Some(format!("its layer {missing} is missing"));
        }
        let whole = stack::is_whole(self.layout, diff_ids).unwrap_or(false);
        (!whole).then(|| "a seam between its layers is missing".to_owned())
    }

    /// Removes as a collection does, if it is to repair: what somebody has mended or held meanwhile stays.
    fn remove(
        &self,
        names: &[String],
        is_still_bad: impl FnOnce() -> bool,
        remove: impl FnOnce() -> Result<(), ImageError>,
    ) -> Result<bool, ImageError> {
        if !self.repair {
            return Ok(false);
        }
        let collecting = self.leases.collect_next();
        if !is_still_bad() {
            return Ok(false);
        }
        let removed = collecting.unless_held(names, remove);
        removed.transpose().map(|removed| removed.is_some())
    }

    fn loose_name(
        &self,
        file: &str,
        reference: &str,
        report: &mut FsckReport,
    ) -> Result<(), ImageError> {
        let files = [file.to_owned()];
        let leads_nowhere = || {
            let found = records::pulled_in(self.layout, file).ok().flatten();
            found.is_none_or(|found| !self.layout.exists(&found.manifest_path()))
        };
        let removed = self.remove(&files, leads_nowhere, || self.layout.unlink(file))?;
        report.damaged.push(Damage {
            path: file.to_owned(),
            cause: "it names a manifest that is not here".to_owned(),
            references: vec![reference.to_owned()],
            done: done(removed),
        });
        Ok(())
    }

    fn layer(
        &self,
        census: &Census,
        path: &str,
        report: &mut FsckReport,
    ) -> Result<(), ImageError> {
        match self.looked_at(path, report) {
            Some(cause) => self.damaged(census, path, cause, report),
            None => Ok(()),
        }
    }

    /// What is wrong with a layer; None if nothing is, if nothing can be said, or if it is gone.
    fn looked_at(&self, path: &str, report: &mut FsckReport) -> Option<String> {
        let lease = self.leases.open();
        lease.hold([path.to_owned()]);
        if !layers::is_whole(self.layout, path) {
            let is_there = self.layout.exists(path);
            return is_there.then(|| "it was set aside earlier".to_owned());
        }
        // A record that cannot be read is set aside by this.
        if let Err(error) = layers::outline_at(self.layout, path) {
            return Some(error.cause);
        }
        let none_possible = self.layout.exists(&format!("{path}/{NONE_POSSIBLE}"));
        let then = inventory::of(self.layout, path).filter(|_| !none_possible);
        let Some(then) = then else {
            report.unproven.push(path.to_owned());
            return None;
        };
        let (before, mut read) = (report.bytes, 0);
        let now = inventory::take(self.layout, path, &mut |bytes| {
            read += bytes;
            if bytes > 0 {
                (self.progress)(FsckProgress::Read(before + read));
            }
            Ok(())
        });
        report.bytes += read;
        report.layers += 1;
        match now {
            Ok(now) => now.differs_from(&then),
            Err(NoInventory::Failed(cause)) => Some(cause),
            Err(NoInventory::Stopped) => None,
        }
    }

    fn blob(&self, census: &Census, path: &str, report: &mut FsckReport) -> Result<(), ImageError> {
        let lease = self.leases.open();
        lease.hold([path.to_owned()]);
        if !blobs::is_whole(self.layout, path) && !self.layout.exists(path) {
            return Ok(());
        }
        let cause = match blobs::is_whole(self.layout, path) {
            false => Some("it was set aside earlier".to_owned()),
            true => {
                let (before, mut read) = (report.bytes, 0);
                let wrong = blobs::wrong_with(self.layout, path, &mut |bytes| {
                    read += bytes;
                    (self.progress)(FsckProgress::Read(before + read));
                });
                report.bytes += read;
                report.blobs += 1;
                wrong
            }
        };
        drop(lease);
        let Some(cause) = cause else { return Ok(()) };
        blobs::set_aside(self.layout, path, &cause);
        let names = [path.to_owned()];
        let removed = self.remove(
            &names,
            || !blobs::is_whole(self.layout, path),
            || self.layout.retire(path).map(drop),
        )?;
        report.damaged.push(Damage {
            path: path.to_owned(),
            cause,
            references: needing(census, path),
            done: done(removed),
        });
        Ok(())
    }

    fn damaged(
        &self,
        census: &Census,
        path: &str,
        cause: String,
        report: &mut FsckReport,
    ) -> Result<(), ImageError> {
        let record = format!("{path}/layer.json");
        if self.layout.exists(&record) {
            self.layout.quarantine(&record, &cause);
        }
        let roots = census.under_roots.get(path);
        let names = [path.to_owned()];
        let done = match roots {
            Some(roots) => Done::InUse(roots.clone()),
            None => done(self.remove(
                &names,
                || !layers::is_whole(self.layout, path),
                || self.layout.retire(path).map(drop),
            )?),
        };
        report.damaged.push(Damage {
            path: path.to_owned(),
            cause,
            references: needing(census, path),
            done,
        });
        Ok(())
    }
}

fn done(removed: bool) -> Done {
    match removed {
        true => Done::Removed,
        false => Done::SetAside,
    }
}

/// Names of images that lead to a layer or blob.
fn needing(census: &Census, path: &str) -> Vec<String> {
    let needs = |image: &&Entry| image.paths().any(|own| own == path);
    let images = census.images.iter().filter(needs);
    let references: BTreeSet<String> = images.flat_map(references).collect();
    references.into_iter().collect()
}

fn references(image: &Entry) -> Vec<String> {
    image.names.iter().map(|n| n.reference.clone()).collect()
}
