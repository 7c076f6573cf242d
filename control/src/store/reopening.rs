//! One redb file that comes back after an I/O error.
//!
//! redb answers every call after a failed read, write or sync with `PreviousIo` until the database is
//! closed and opened again. A full disk is such an error, and it passes. So the database is closed after
//! it, and the next call opens it anew; redb then takes up the last whole commit.
//!
//! Absent: repeating the failed call, whose outcome is its caller's to find out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use redb::Database;

/// Opens the file; a sentence with cause and remedy where that fails.
pub(super) type Opener = Box<dyn Fn() -> Result<Database, String> + Send + Sync>;

/// Why a call was not carried out.
pub(super) enum Failed {
    /// The file could not be opened again; the next call tries it once more.
    Opening(String),
    /// The call itself.
    Call(redb::Error),
}

/// A database, and how to open it again.
pub(super) struct Reopening {
    opener: Opener,
    /// Calls hold it shared; opening anew holds it alone, so that no transaction is alive then: redb would
    /// keep the file locked for a live one.
    database: RwLock<Option<Database>>,
    /// The database answers nothing any more.
    broken: AtomicBool,
}

impl Reopening {
    pub(super) fn new(database: Database, opener: Opener) -> Reopening {
        Reopening {
            opener,
            database: RwLock::new(Some(database)),
            broken: AtomicBool::new(false),
        }
    }

    /// Does `call` with the database, opened again first where an earlier call broke it.
    pub(super) fn with<T>(
        &self,
        call: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, Failed> {
        if self.broken.load(Ordering::Acquire) {
            self.open_again().map_err(Failed::Opening)?;
        }
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        // None: broken once more since the line above, and another thread could not open it.
        let database = database
            .as_ref()
            .ok_or(Failed::Call(redb::Error::PreviousIo))?;
        call(database).map_err(|error| {
            if breaks(&error) {
                self.broken.store(true, Ordering::Release);
            }
            Failed::Call(error)
        })
    }

    fn open_again(&self) -> Result<(), String> {
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if !self.broken.load(Ordering::Acquire) {
            return Ok(()); // another thread was first
        }
        // Closed before it is opened: the old one holds the file's lock.
        drop(database.take());
        *database = Some((self.opener)()?);
        self.broken.store(false, Ordering::Release);
        Ok(())
    }
}

fn breaks(error: &redb::Error) -> bool {
    use redb::Error::{DatabaseClosed, Io, LockPoisoned, PreviousIo};
    matches!(error, Io(_) | PreviousIo | DatabaseClosed | LockPoisoned(_))
}
