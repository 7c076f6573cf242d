//! Where a verb finds the image store: behind the agent that has it open, or on the disk where no agent runs
//! (decision 0017).

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use longshore_agent::Instance;
use longshore_image::{ImageError, Registries, Store};

use crate::place::{self, Place};

/// How long an agent that is just starting or ending may take, or another verb that has the store.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// What is said to who wants blobs kept while an agent has the store.
pub(super) const KEEP_BLOBS: &str = "keep blobs: an agent of this instance runs and keeps them or not as it was started; leave out \
     --keep-blobs, or start the agent with --image-keep-blobs";

/// The store of an instance.
pub(super) enum Reach {
    /// The socket of the agent that has it.
    Agent(PathBuf),
    Store(Box<Store>),
    /// There is none: nothing was ever pulled or loaded.
    Nothing,
}

/// What a verb wants of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Only to look: a store that is not there is not made.
    Look,
    /// To put something in.
    Change,
}

impl Reach {
    /// Finds the store; opened here it knows these registries. Blocking.
    pub(super) fn of(place: &Place, want: Want, registries: &Registries) -> Result<Reach> {
        let instance = place.instance()?;
        let until = Instant::now() + PATIENCE;
        loop {
            match once(&instance, want, registries) {
                // Between an agent's taking the store and its answering, and the reverse.
                Err(_) if is_between(&instance) && Instant::now() < until => {
                    std::thread::sleep(PAUSE);
                }
                reached => return reached,
            }
        }
    }
}

/// Somebody has the store open, and nobody answers.
fn is_between(instance: &Instance) -> bool {
    Store::is_open_elsewhere(&images(instance))
}

fn images(instance: &Instance) -> PathBuf {
    instance.state_root().join("images")
}

fn once(instance: &Instance, want: Want, registries: &Registries) -> Result<Reach> {
    let socket = instance.agent_socket();
    if answers(&socket)? {
        return Ok(Reach::Agent(socket));
    }
    place::need_root("image")?;
    let images = images(instance);
    match (want, images.exists()) {
        (Want::Look, false) => return Ok(Reach::Nothing),
        (Want::Look, true) => {}
        (Want::Change, _) => {
            place::claim(instance)?;
        }
    }
    // Who only looks whether it is locked has it for a moment, too.
    let store = Store::open_within(&images, registries.clone(), 4 * PAUSE)?;
    Ok(Reach::Store(Box::new(store)))
}

fn answers(socket: &Path) -> Result<bool> {
    match UnixStream::connect(socket) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            Ok(false)
        }
        Err(e) => Err(anyhow!(
            "connect to {}: {e}; only its owner may: run this as root",
            socket.display()
        )),
    }
}

/// Ends work on a store that was opened here: what was put into it survives a power cut, and `fsck` has something to compare
/// it with. An agent does that in its own time. Blocking.
pub(super) fn settle(store: &Store) -> Result<()> {
    /// A disk reads tens of gigabytes in it. Cut off, the next to open the store goes on.
    const PATIENCE: Duration = Duration::from_secs(120);
    store.sync()?;
    if !store.settle(PATIENCE) {
        eprintln!(
            "what fsck compares with is not taken of all layers yet; the next agent does the rest"
        );
    }
    Ok(())
}

/// What a store that is not there says of any image.
pub(super) fn nothing(step: &'static str, name: &str) -> ImageError {
    ImageError {
        step,
        subject: name.to_owned(),
        cause: "nothing was pulled or loaded on this host yet".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        place: Place,
    }

    #[test]
    fn looking_makes_no_store() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: looking_makes_no_store: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let words = ["x", "--instance", "no-such-one", "--state-dir"];
        let words = words.map(str::to_owned).into_iter();
        let place = Alone::parse_from(words.chain([state.display().to_string()])).place;
        let reached = Reach::of(&place, Want::Look, &Registries::default()).unwrap();
        assert!(matches!(reached, Reach::Nothing));
        assert!(!state.exists());
    }
}
