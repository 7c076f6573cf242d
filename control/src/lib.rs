//! The control plane: the ECS API to the north, agents' sessions to the south, a store in the middle.

pub mod access_key;
pub mod admin;
pub mod definition;
pub mod id;
pub mod model;
pub mod placement;
pub mod sigv4;
pub mod south;
pub mod store;

use std::time::{SystemTime, UNIX_EPOCH};

/// The time, as records keep it. A clock before 1970 reads as 1970.
#[must_use]
pub fn now() -> model::Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
