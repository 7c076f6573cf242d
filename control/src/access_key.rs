//! Access keys: the pairs that clients sign with. The control plane makes one at its first start.
//!
//! Absent: users, policies, rotation. Whoever has a key may call every operation.

use serde::{Deserialize, Serialize};

use crate::id;
use crate::model::{self, Millis};
use crate::store::{Compare, Outcome, Store, StoreError};

const PREFIX: &str = "accesskey/";

/// Digits of an access key id, as AWS has them (base 32).
const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// An access key. The secret is in the store (which only its owner can read) and nowhere else; `Debug`
/// leaves it out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKey {
    /// `AKIA` and 16 digits.
    pub id: String,
    /// 40 characters.
    pub secret: String,
    /// Made when.
    pub created_at: Millis,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The first key of the store; makes one where there is none.
pub(crate) fn first(store: &dyn Store) -> Result<AccessKey, StoreError> {
    loop {
        let mut found = model::list::<AccessKey>(store, PREFIX, None, 1)?;
        if let Some((_, key)) = found.pop() {
            return Ok(key.record);
        }
        let key = generate();
        let at = format!("{PREFIX}{}", key.id);
        let write = model::put(at.clone(), &key);
        if let Outcome::Committed(_) = store.transact(&[Compare::Absent(at)], &[write])? {
            return Ok(key);
        }
    }
}

/// The secret of a key that a request names. The name is foreign text.
pub(crate) fn secret(store: &dyn Store, id: &str) -> Result<Option<String>, StoreError> {
    if id.len() != 20 || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Ok(None);
    }
    let found = model::read::<AccessKey>(store, &format!("{PREFIX}{id}"))?;
    Ok(found.map(|key| key.record.secret))
}

fn generate() -> AccessKey {
    use base64::Engine as _;
    let digit = |byte: &u8| char::from(DIGITS[usize::from(byte % 32)]);
    let tail: String = id::random::<16>().iter().map(digit).collect();
    AccessKey {
        id: format!("AKIA{tail}"),
        secret: base64::engine::general_purpose::STANDARD.encode(id::random::<30>()),
        created_at: crate::now(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RedbStore;

    #[test]
    fn one_key_is_made_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = RedbStore::open(directory.path()).unwrap();
        let key = first(&store).unwrap();
        assert_eq!((key.id.len(), key.secret.len()), (20, 40));
        assert_eq!(first(&store).unwrap(), key);
        assert_eq!(secret(&store, &key.id).unwrap(), Some(key.secret.clone()));
        assert_eq!(secret(&store, "AKIAAAAAAAAAAAAAAAAA").unwrap(), None);
        assert_eq!(secret(&store, "../ca").unwrap(), None);
    }

    #[test]
    fn debug_does_not_tell_the_secret() {
        let key = generate();
        assert!(!format!("{key:?}").contains(&key.secret));
    }
}
