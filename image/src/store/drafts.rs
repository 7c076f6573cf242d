//! The records of an image that is on its way: on disk before its layers are, and named after them.
//!
//! They are written and synced while layers are fetched, when there is little else to write. So a pull does not wait for
//! the disk at its end, and no power cut tears a record: a name leads to what it led to before, to all of the new, or
//! to nothing.

use std::sync::Arc;

use super::layout::Layout;
use crate::error::ImageError;

/// Files without their names; removed when dropped without them.
#[derive(Debug)]
pub(crate) struct Drafts {
    layout: Arc<Layout>,
    files: Vec<Draft>,
}

#[derive(Debug)]
struct Draft {
    path: String,
    directory: &'static str,
    name: String,
}

impl Drafts {
    pub(crate) fn new(layout: Arc<Layout>) -> Drafts {
        Drafts {
            layout,
            files: Vec::new(),
        }
    }

    /// Writes one more. Blocking.
    pub(crate) fn add(
        &mut self,
        directory: &'static str,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), ImageError> {
        let path = self.layout.draft(bytes)?;
        self.files.push(Draft {
            path,
            directory,
            name: name.to_owned(),
        });
        Ok(())
    }

    /// Gives all of them their names, in the order in which they were written. Blocking.
    pub(crate) fn publish(mut self) -> Result<(), ImageError> {
        while !self.files.is_empty() {
            let draft = self.files.remove(0);
            self.layout.put(&draft.path, draft.directory, &draft.name)?;
        }
        Ok(())
    }
}

impl Drop for Drafts {
    fn drop(&mut self) {
        for draft in &self.files {
            if let Err(error) = self.layout.unlink(&draft.path) {
                tracing::warn!(%error, "image store: a draft stays until the next start");
            }
        }
    }
}
