//! Pull: make the container's image available, a few at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use longshore_engine::{ContainerKey, Event, Failure, ImageFacts};
use longshore_image::Image;
use tokio::sync::{Semaphore, mpsc};

use super::{ThisHost, failure};
use crate::driver::Order;

const SIGTERM: i32 = 15;

/// Pulls from one registry that move at the same time; more would only share the same disk and line.
const AT_ONCE: usize = 3;

/// Whose turn it is. Each registry has turns of its own: one that is slow, or hostile and sends a byte a
/// minute, keeps nobody from the others.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<String, Weak<Semaphore>>>);

impl Turns {
    pub(crate) fn of(&self, image: &str) -> Arc<Semaphore> {
        // What is no reference fails before anything is asked for.
        let registry = longshore_image::registry_of(image).unwrap_or_default();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, turns| turns.strong_count() > 0);
        if let Some(turns) = all.get(&registry).and_then(Weak::upgrade) {
            return turns;
        }
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        all.insert(registry, Arc::downgrade(&turns));
        turns
    }
}

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
    let turns = host.pulls.of(&container.image);
    let _permit = turns.acquire().await.map_err(|e| refuse(&e))?;
    // Only a timestamp hangs on it: a full queue may lose it.
    drop(progress.try_send(Event::PullStarted(key.clone())));
    let pulled = host
        .images
        .pull_held(&container.image, host.pull_behaviour, |_| ());
    let (image, lease) = pulled.await.map_err(|e| refuse(&e))?;
    host.fresh.keep(key, lease);
    Ok(image)
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
    use super::{AT_ONCE, Turns, signal_number};

    #[test]
    fn a_registry_whose_pulls_never_end_takes_no_turn_of_another() {
        let turns = Turns::default();
        let slow = turns.of("slow.example/a:1");
        let held: Vec<_> = (0..AT_ONCE).map(|_| slow.try_acquire().unwrap()).collect();
        assert!(turns.of("slow.example/other").try_acquire().is_err());
        assert!(turns.of("busybox").try_acquire().is_ok());
        drop(held);
        assert!(turns.of("slow.example/a").try_acquire().is_ok());
    }

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
