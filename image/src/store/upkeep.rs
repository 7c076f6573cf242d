//! The store's verbs that keep it in order: collecting, pruning, removing one image, verifying, prefetching. All of them
//! may run beside pulls and mounts.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use rustix::io::Errno;

use super::census::census;
use super::collect::{self, Collected, Facts, GcPolicy, Prune, Wish};
use super::fsck::{Fsck, FsckProgress, FsckReport};
use super::layout::Fullness;
use super::lease::Collecting;
use super::{PullBehaviour, Store};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::reference::Reference;
use crate::remove::remove_tree;

impl Store {
    /// Removes what the policy lets go, or tells what it would. `held` is asked once, after the collection began: the
    /// manifest digests and references of images that tasks hold. Roots and pulls under way hold theirs by themselves.
    ///
    /// What is removed is out of sight at once and takes no room soon after. Blocking; not to be run twice at once.
    ///
    /// # Errors
    /// A collection is under way already, or the store cannot be read or written. What was removed until then is.
    pub fn collect(
        &self,
        policy: &GcPolicy,
        held: &dyn Fn() -> Vec<String>,
        dry_run: bool,
    ) -> Result<Collected, ImageError> {
        // What is on its way out is in use as the file system counts: it must not be asked for twice.
        let fullness = match self.layout.list("trash")?.is_empty() {
            true => self.layout.fullness()?,
            false => Fullness::default(),
        };
        let wish = Wish::Policy(policy, fullness);
        self.sweep(&wish, &policy.protected, held, dry_run)
    }

    /// Removes images that nobody needs, whatever the disk says. Otherwise as [`Store::collect`].
    pub fn prune(
        &self,
        which: Prune,
        protected: &[String],
        held: &dyn Fn() -> Vec<String>,
        dry_run: bool,
    ) -> Result<Collected, ImageError> {
        self.sweep(&Wish::Prune(which), protected, held, dry_run)
    }

    /// Removes the image of a manifest digest with all its names, and what it alone needs. Protection by name does not keep
    /// it: somebody asked for just this one. Nothing is removed, and `in_use` says so, while it is needed. Waits for a collection
    /// that is under way. Otherwise as [`Store::collect`].
    pub fn remove_image(
        &self,
        manifest_digest: &str,
        held: &dyn Fn() -> Vec<String>,
        dry_run: bool,
    ) -> Result<Collected, ImageError> {
        let these = BTreeSet::from([manifest_digest.to_owned()]);
        let collecting = self.leases.collect_next();
        let mut removed = self.swept(&collecting, &Wish::These(&these), &[], held, dry_run)?;
        // Of the others nobody asked.
        removed.in_use = u64::from(removed.images.is_empty() && removed.in_use > 0);
        Ok(removed)
    }

    fn sweep(
        &self,
        wish: &Wish<'_>,
        protected: &[String],
        held: &dyn Fn() -> Vec<String>,
        dry_run: bool,
    ) -> Result<Collected, ImageError> {
        let Some(collecting) = self.leases.collect() else {
            let cause = "a collection is under way; try again when it has ended";
            return Err(ImageError::new("collect images", "", cause));
        };
        self.swept(&collecting, wish, protected, held, dry_run)
    }

    fn swept(
        &self,
        collecting: &Collecting<'_>,
        wish: &Wish<'_>,
        protected: &[String],
        held: &dyn Fn() -> Vec<String>,
        dry_run: bool,
    ) -> Result<Collected, ImageError> {
        let census = census(&self.layout)?;
        let held = held();
        let facts = Facts {
            census: &census,
            held: held.iter().map(|name| canonical(name)).collect(),
            protected,
            now: SystemTime::now(),
        };
        let size = |path: &str| collect::size(&self.layout, path);
        let plan = collect::plan(&facts, wish, &size);
        let collected = collect::sweep(&self.layout, collecting, &facts, &plan, dry_run);
        if !dry_run {
            // What a task holds or stands on is in use now: later it counts from here.
            for image in census.images.iter().filter(|image| facts.is_in_use(image)) {
                super::records::use_now(&self.layout, &image.digest);
            }
            self.caretaker.wake();
        }
        collected
    }

    /// Verifies all that is stored, tells how far it is, and sets aside what is damaged; with `repair` removes it, so
    /// that the next pull fetches it again. Blocking, and as long as reading the whole store takes.
    ///
    /// # Errors
    /// The store cannot be read or written. What is damaged is no error.
    pub fn fsck(
        &self,
        repair: bool,
        progress: &dyn Fn(FsckProgress),
    ) -> Result<FsckReport, ImageError> {
        let fsck = Fsck {
            layout: &self.layout,
            leases: &self.leases,
            repair,
            progress,
        };
        let report = fsck.run();
        self.caretaker.wake();
        report
    }

    /// Percent of the store's file system in use, of its bytes or its inodes. Blocks for a moment.
    pub fn used_percent(&self) -> Result<u8, ImageError> {
        Ok(self.layout.fullness()?.percent())
    }

    /// Makes an image available before a task asks for it: fetches it if the store has none under the reference. It
    /// is held by nobody afterwards; protect its name, or it may be collected.
    pub async fn prefetch(&self, reference: &str) -> Result<(), ImageError> {
        let once = PullBehaviour::Once;
        self.pull_held(reference, once, |_| {}).await.map(drop)
    }

    /// Removes at once and as fast as it goes what collections have taken out of sight, for who ends soon after. Blocking.
    pub fn empty_trash(&self) -> Result<(), ImageError> {
        loop {
            let names = self.layout.list("trash")?;
            if names.is_empty() {
                return Ok(());
            }
            let trash = self.layout.directory("trash")?;
            for name in names {
                match remove_tree(trash.as_fd(), &CString::new(name).unwrap_or_default()) {
                    // The caretaker is at it, too.
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(e) => return Err(self.layout.error("remove", "trash", e)),
                }
            }
        }
    }

    /// Waits until what was removed takes no room any more and every layer has its inventory, at most for `patience`; whether
    /// that is so. Blocking.
    pub fn settle(&self, patience: Duration) -> bool {
        // Inventories are taken of what a power cut cannot take any more.
        self.syncs.settle().is_ok() && self.caretaker.rest(patience)
    }
}

/// A digest as it is, a reference in the form in which the store records it.
fn canonical(name: &str) -> String {
    if Digest::parse(name).is_ok() {
        return name.to_owned();
    }
    match Reference::parse(name) {
        Ok(reference) => reference.to_string(),
        Err(_) => name.to_owned(),
    }
}
