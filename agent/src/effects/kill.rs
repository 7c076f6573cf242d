//! Kill: end every process of a container. The watch sees its end.

use std::sync::Arc;
use std::time::Duration;

use longshore_engine::{ContainerKey, Event};

use super::{ThisHost, blocking, failure, target};
use crate::driver::Order;

/// Shorter than the engine's pause before it asks again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends in no event: the engine asks again while the container has not ended.
pub(super) async fn run(host: Arc<ThisHost>, order: Order, key: ContainerKey) -> Option<Event> {
    let result = blocking(move || {
        let group = host
            .container_group(target(&order, &key)?)
            .map_err(|e| failure("CannotStopContainerError", &e))?;
        if !group.exists() {
            return Ok(());
        }
        group
            .kill(PATIENCE)
            .map_err(|e| failure("CannotStopContainerError", &e))
    });
    if let Err(failure) = result.await {
        tracing::warn!("{failure}; it is killed again");
    }
    None
}
