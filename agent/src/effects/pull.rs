//! Pull: make the container's image available, a few at a time.

use std::sync::Arc;

use longshore_engine::{ContainerKey, Event, Failure, ImageFacts};
use longshore_image::Image;
use tokio::sync::mpsc;

use super::{ThisHost, failure};
use crate::driver::Order;

const SIGTERM: i32 = 15;

pub(super) async fn run(
    host: Arc<ThisHost>,
    order: Order,
    key: ContainerKey,
    progress: mpsc::Sender<Event>,
) -> Event {
    match pull(&host, &order, &key, &progress).await {
        Ok(image) => Event::Pulled(
            key,
            ImageFacts {
                stop_signal: stop_signal(&image),
                digest: image.manifest_digest,
            },
        ),
        Err(failure) => Event::PullFailed(key, failure),
    }
}

async fn pull(
    host: &ThisHost,
    order: &Order,
    key: &ContainerKey,
    progress: &mpsc::Sender<Event>,
) -> Result<Image, Failure> {
    let refuse = |cause: &dyn std::fmt::Display| failure("CannotPullContainerError", cause);
    let container = order
        .task
        .containers
        .get(key.index)
        .ok_or_else(|| refuse(&"find container: it is not in the task"))?;
    let _permit = host.pulls.acquire().await.map_err(|e| refuse(&e))?;
    // Only a timestamp hangs on it: a full queue may lose it.
    drop(progress.try_send(Event::PullStarted(key.clone())));
    host.images
        .pull(&container.image, |_| ())
        .await
        .map_err(|e| refuse(&e))
}

fn stop_signal(image: &Image) -> i32 {
    let named = image
        .config
        .config()
        .as_ref()
        .and_then(|c| c.stop_signal().clone());
    match named.as_deref().map(signal_number) {
        Some(Some(number)) => number,
        Some(None) => {
            tracing::warn!(
                image = image.reference,
                "unknown StopSignal {named:?}; SIGTERM is used"
            );
            SIGTERM
        }
        None => SIGTERM,
    }
}

/// `SIGQUIT`, `QUIT`, `3`, `SIGRTMIN+3`, as Docker reads them; numbers of x86-64 and arm64 Linux.
fn signal_number(text: &str) -> Option<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    // The C library keeps the kernel's first two real-time signals for itself.
    const RTMIN: i32 = 34;
    const RTMAX: i32 = 64;
    let in_range = |number: &i32| (1..=RTMAX).contains(number);
    if let Ok(number) = text.parse::<i32>() {
        return Some(number).filter(in_range);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(plus) = name.strip_prefix("RTMIN") {
        let offset = plus
            .strip_prefix('+')
            .map_or(Some(0), |n| n.parse::<i32>().ok());
        return offset
            .and_then(|n| RTMIN.checked_add(n))
            .filter(|n| (RTMIN..=RTMAX).contains(n));
    }
    if let Some(minus) = name.strip_prefix("RTMAX") {
        let offset = minus
            .strip_prefix('-')
            .map_or(Some(0), |n| n.parse::<i32>().ok());
        return offset
            .and_then(|n| RTMAX.checked_sub(n))
            .filter(|n| (RTMIN..=RTMAX).contains(n));
    }
    let place = NAMES.iter().position(|known| *known == name)?;
    i32::try_from(place + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::signal_number;

    #[test]
    fn stop_signals_are_read_as_docker_reads_them() {
        let cases = [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("SIGWINCH", Some(28)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("SIGRTMIN+99", None),
            ("RTMAX-31", None),
            ("SIGRTMIN+2147483647", None),
            ("0", None),
            ("65", None),
            ("SIGNAL", None),
            ("", None),
        ];
        for (text, number) in cases {
            assert_eq!(signal_number(text), number, "{text:?}");
        }
    }
}
