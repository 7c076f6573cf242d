//! Signal: tell the container's first process to stop. The watch sees its end.

use std::sync::Arc;

use longshore_engine::{ContainerKey, Event};

use super::{ThisHost, blocking, failure, target};
use crate::driver::Order;

/// Ends in no event. A signal that cannot be sent is logged: SIGKILL follows after the stop timeout.
pub(super) async fn run(
    host: Arc<ThisHost>,
    order: Order,
    key: ContainerKey,
    number: i32,
) -> Option<Event> {
    let result = blocking(move || {
        let id = &target(&order, &key)?.runtime_id;
        match host.container(id) {
            Some(container) => container
                .signal(number)
                .map_err(|e| failure("CannotStopContainerError", &e)),
            None => Ok(()),
        }
    });
    if let Err(failure) = result.await {
        tracing::warn!("{failure}");
    }
    None
}
