//! How layers travel: broken connections, busy and slow registries, many who ask at once, pulls that are dropped. No
//! privilege needed.

mod faulty;
mod house;
mod registry;

use std::num::NonZeroUsize;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use faulty::image::OneLayer;
use faulty::{Reply, Server, reply};
use house::{House, house, names};
use longshore_image::{Limits, Registries, Store};
use registry::{Registry, digest, gzip, noise, tar_of};

#[tokio::test]
async fn a_broken_download_is_taken_up_where_it_broke() {
    let registry = Registry::start().await;
    let data = noise(400_000);
    registry.push("a", "t", &[tar_of(&[("f", &data)])]);
    for ranges in [true, false] {
        let house = house(Registries::default());
        registry.state().ranges = ranges;
        registry.state().cut = (2, 150_000);
        let before = registry.count("/blobs/");
        let image = house.pull(&registry.reference("a:t")).await.unwrap();
        assert!(house.file(&image, 0, "f") == data);
        // The configuration, and the layer in three goes.
        assert_eq!(registry.count("/blobs/") - before, 4, "ranges {ranges}");
    }
    let house = house(Registries::default());
    registry.state().cut = (100, 1000);
    let error = house.pull(&registry.reference("a:t")).await.unwrap_err();
    assert!(
        error.contains("broken off after") && error.contains("try again"),
        "{error}"
    );
    house.holds_nothing();
}

#[tokio::test]
async fn a_busy_registry_is_asked_again() {
    let registry = Registry::start().await;
    registry.push("a", "t", &[tar_of(&[("f", b"x")])]);
    registry.state().busy = 3;
    house(Registries::default())
        .pull(&registry.reference("a:t"))
        .await
        .unwrap();
    registry.state().busy = 100;
    let error = house(Registries::default())
        .pull(&registry.reference("a:t"))
        .await
        .unwrap_err();
    assert!(error.contains("429 Too Many Requests 4 times"), "{error}");
}

#[tokio::test]
async fn one_download_serves_pulls_that_meet() {
    let registry = Registry::start().await;
    let tar = tar_of(&[("f", &noise(100_000))]);
    registry.push("a", "1", std::slice::from_ref(&tar));
    registry.push("b", "1", std::slice::from_ref(&tar));
    let house = house(Registries::default());
    let (one, two) = (registry.reference("a:1"), registry.reference("b:1"));
    let (one, two) = tokio::join!(house.pull(&one), house.pull(&two));
    assert_eq!(one.unwrap().layers, two.unwrap().layers);
    assert_eq!(registry.count(&digest(&gzip(&tar))), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_dropped_leaves_nothing_and_can_be_repeated() {
    let registry = Registry::start().await;
    registry.push("a", "t", &[tar_of(&[("f", &noise(100_000))])]);
    let gate = Arc::new(tokio::sync::Notify::new());
    let house = house(Registries::default());
    let reference = registry.reference("a:t");
    {
        registry.state().gate = Some(Arc::clone(&gate));
        gate.notify_one();
        let started = Arc::new(tokio::sync::Notify::new());
        let tell = Arc::clone(&started);
        let pull = house.store.pull(&reference, move |_| tell.notify_one());
        tokio::select! {
            _ = pull => panic!("the layer is held back"),
            () = started.notified() => {}
        }
    }
    registry.state().gate = None;
    gate.notify_waiters();
    let image = house.pull(&reference).await.unwrap();
    assert_eq!(house.file(&image, 0, "f").len(), 100_000);
    drop(house.store);
    let again = Store::open(&house.dir.path().join("store"), Registries::default());
    // The dropped pull's unpacker may still hold the store for a moment: then the lock says so by name.
    match again {
        Ok(_) => assert_eq!(names(&house.dir.path().join("store/ingest")), [""; 0]),
        Err(error) => assert!(
            error
                .to_string()
                .contains("another process uses this store")
        ),
    }
}

fn limited(limits: Limits) -> Registries {
    Registries {
        limits,
        ..Registries::default()
    }
}

/// Asks until it is so.
#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < patience, "never: {what}");
        std::thread::yield_now();
    }
}

/// The bytes from the asked range on.
fn from(asked: &faulty::Asked) -> Option<usize> {
    let range = asked.header("range")?;
    range
        .strip_prefix("bytes=")?
        .strip_suffix('-')?
        .parse()
        .ok()
}

#[tokio::test]
async fn a_registry_that_gets_ranges_wrong_is_asked_for_the_whole() {
    let data = noise(300_000);
    let image = Arc::new(OneLayer::plain(tar_of(&[("f", &data)])));
    type Wrong = fn(&OneLayer, usize) -> Reply;
    let wrongs: [(&str, Wrong); 4] = [
        ("no such range", |_, _| {
            reply("416 Range Not Satisfiable", &[], "")
        }),
        ("a range without its place", |image, at| {
            reply("206 Partial Content", &[], &image.layer[at..])
        }),
        ("another range", |image, at| {
            let range = format!("bytes {}-{}/*", at + 9, image.layer.len() - 1);
            reply(
                "206 Partial Content",
                &[("content-range", &range)],
                &image.layer[at + 9..],
            )
        }),
        ("other bytes", |image, at| {
            let range = format!("bytes {at}-{}/*", image.layer.len() - 1);
            let bytes = vec![7; image.layer.len() - at];
            reply("206 Partial Content", &[("content-range", &range)], bytes)
        }),
    ];
    for (name, wrong) in wrongs {
        let (served, seen) = (Arc::clone(&image), AtomicUsize::new(0));
        let server = Server::start(move |asked| {
            served.answer(asked, |asked| match from(asked) {
                Some(at) => wrong(&served, at),
                None if seen.fetch_add(1, Ordering::Relaxed) == 0 => {
                    Reply::Bytes(served.announced(100_000))
                }
                None => Reply::Bytes(served.announced(served.layer.len())),
            })
        })
        .await;
        let house = house(Registries::default());
        let pulled = house.pull(&format!("{}/a:t", server.authority)).await;
        assert!(house.file(&pulled.expect(name), 0, "f") == data, "{name}");
        let layer = server.count(&digest(&image.layer));
        assert_eq!(layer, 3, "{name}: cut, ranged and whole");
    }
}

#[tokio::test]
async fn a_blob_that_changed_in_between_is_fetched_once_more_and_then_named() {
    let image = Arc::new(OneLayer::plain(tar_of(&[("f", &noise(300_000))])));
    let served = Arc::clone(&image);
    let server = Server::start(move |asked| {
        served.answer(asked, |asked| match from(asked) {
            None => Reply::Bytes(served.announced(100_000)),
            Some(at) => {
                let range = format!("bytes {at}-{}/*", served.layer.len() - 1);
                let bytes = vec![7; served.layer.len() - at];
                reply("206 Partial Content", &[("content-range", &range)], bytes)
            }
        })
    })
    .await;
    let house = house(Registries::default());
    let error = house.pull(&format!("{}/a:t", server.authority)).await;
    let error = error.unwrap_err();
    assert!(error.contains("wrong digest: the bytes have"), "{error}");
    assert_eq!(server.count(&digest(&image.layer)), 4);
    house.holds_nothing();
}

#[tokio::test]
async fn a_connection_that_makes_progress_is_taken_up_as_often_as_it_breaks() {
    let registry = Registry::start().await;
    let data = noise(3_000_000);
    registry.push("a", "t", &[tar_of(&[("f", &data)])]);
    registry.state().cut = (10, 270_000);
    let house = house(Registries::default());
    let image = house.pull(&registry.reference("a:t")).await.unwrap();
    assert!(house.file(&image, 0, "f") == data);
    assert_eq!(registry.state().cut.0, 0);
}

#[tokio::test]
async fn a_server_error_now_and_then_is_no_reason_to_fail() {
    let registry = Registry::start().await;
    let layers: Vec<Vec<u8>> = (0..6u8).map(|n| tar_of(&[("f", &[n])])).collect();
    registry.push("a", "t", &layers);
    registry.state().fail_every = Some(3);
    let house = house(Registries::default());
    let image = house.pull(&registry.reference("a:t")).await.unwrap();
    assert_eq!(house.file(&image, 5, "f"), [5]);
}

#[tokio::test]
async fn a_registry_that_hangs_is_given_up_after_the_limits() {
    let image = Arc::new(OneLayer::plain(tar_of(&[("f", &noise(50_000))])));
    let limits = Limits {
        inactivity_seconds: 1,
        total_seconds: 3,
        ..Limits::default()
    };
    type Hang = fn(&OneLayer) -> Reply;
    let hangs: [(Hang, &str); 3] = [
        (|_| Reply::Hang(Vec::new()), "no answer for 1 s"),
        (
            |image| Reply::Hang(image.announced(20_000)),
            "broken off after 20000 of",
        ),
        (|_| Reply::Reset, "cannot be reached"),
    ];
    for (hang, said) in hangs {
        let served = Arc::clone(&image);
        let server = Server::start(move |asked| served.answer(asked, |_| hang(&served))).await;
        let house = house(limited(limits));
        let error = house.pull(&format!("{}/a:t", server.authority)).await;
        let error = error.unwrap_err();
        assert!(
            error.starts_with("fetch layer sha256:") && error.contains(said),
            "{said}: {error}"
        );
        house.holds_nothing();
    }
    let silent = Server::start(|_| Reply::Hang(Vec::new())).await;
    let error = house(limited(limits))
        .pull(&format!("{}/a:t", silent.authority))
        .await
        .unwrap_err();
    assert!(
        error.starts_with("fetch manifest") && error.contains("no answer for 1 s"),
        "{error}"
    );
}

#[tokio::test]
async fn slow_registries_stall_no_pull_from_another() {
    let (slow, fast) = (Registry::start().await, Registry::start().await);
    let (own, shared) = (tar_of(&[("f", b"own")]), tar_of(&[("f", b"shared")]));
    slow.push("a", "t", std::slice::from_ref(&own));
    slow.push("b", "t", std::slice::from_ref(&shared));
    fast.push("b", "t", std::slice::from_ref(&shared));
    // The slow one sends its layers never, and there is one turn for all.
    let one = NonZeroUsize::new(1).unwrap();
    let house = house(limited(Limits {
        layers: one,
        ..Limits::default()
    }));
    slow.state().hold = Some(digest(&gzip(&own)));
    let (stuck, quick) = (slow.reference("a:t"), fast.reference("b:t"));
    let once_asked_for = async |house: &House, blob: String| {
        while slow.count(&blob) == 0 {
            tokio::task::yield_now().await;
        }
        house.pull(&quick).await
    };
    tokio::select! {
        _ = house.pull(&stuck) => panic!("it is held back"),
        pulled = once_asked_for(&house, digest(&gzip(&own))) => drop(pulled.unwrap()),
    }

    // The same layer from both: it is not waited for either.
    let house = self::house(Registries::default());
    slow.state().hold = Some(digest(&gzip(&shared)));
    let stuck = slow.reference("b:t");
    tokio::select! {
        _ = house.pull(&stuck) => panic!("it is held back"),
        pulled = once_asked_for(&house, digest(&gzip(&shared))) => drop(pulled.unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_may_be_dropped_whenever_it_waits() {
    let registry = Registry::start().await;
    let layers = [
        tar_of(&[("f", &noise(400_000))]),
        tar_of(&[("d/e", b"1"), ("g", b"2")]),
    ];
    registry.push("a", "t", &layers);
    let reference = registry.reference("a:t");
    for polls in 1.. {
        let house = house(Registries::default());
        let done = {
            let mut pull = pin!(house.pull(&reference));
            let mut left = polls;
            std::future::poll_fn(|cx| match pull.as_mut().poll(cx) {
                Poll::Ready(pulled) => Poll::Ready(Some(pulled)),
                Poll::Pending => {
                    left -= 1;
                    if left == 0 {
                        return Poll::Ready(None);
                    }
                    Poll::Pending
                }
            })
            .await
        };
        // What is left of it ends by itself: then nothing is half-done, and what is visible is whole.
        until("nothing is half-done", || {
            names(&house.path().join("ingest")).is_empty()
        });
        for layer in names(&house.path().join("layers/sha256")) {
            let record = house
                .path()
                .join("layers/sha256")
                .join(layer)
                .join("layer.json");
            assert!(record.exists());
        }
        if let Some(pulled) = done {
            assert_eq!(house.file(&pulled.unwrap(), 1, "d/e"), b"1");
            assert!(polls > 5, "it waits more often than that");
            return;
        }
        let path = house.path();
        drop(house.store);
        until("nothing has the store open", || {
            Store::open(&path, Registries::default()).is_ok()
        });
    }
}

const CHILD: &str = "LONGSHORE_TEST_PULL";

/// Not a test by itself: what the next one starts, and kills.
#[tokio::test]
async fn child_that_pulls() {
    let Ok(what) = std::env::var(CHILD) else {
        return;
    };
    let (path, reference) = what.split_once(' ').unwrap();
    let store = Store::open(Path::new(path), Registries::default()).unwrap();
    store.pull(reference, |_| {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_a_killed_agent_had_finished_are_not_fetched_again() {
    let registry = Registry::start().await;
    let (done, under_way) = (tar_of(&[("f", b"done")]), tar_of(&[("g", &noise(300_000))]));
    registry.push("a", "t", &[done.clone(), under_way.clone()]);
    let reference = registry.reference("a:t");
    registry.state().hold = Some(digest(&gzip(&under_way)));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_pulls"])
        .env(CHILD, format!("{} {reference}", path.display()))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let layers = path.join("layers/sha256");
    tokio::task::block_in_place(|| {
        until("the small layer is there", || {
            layers.exists() && names(&layers).len() == 1
        });
        until("the large one is asked for", || {
            registry.count(&digest(&gzip(&under_way))) == 1
        });
    });
    child.kill().unwrap();
    child.wait().unwrap();
    registry.state().hold = None;

    let store = Store::open(&path, Registries::default()).unwrap();
    assert_eq!(names(&path.join("ingest")), [""; 0]);
    let image = store.pull(&reference, |_| {}).await.unwrap();
    assert_eq!(registry.count(&digest(&gzip(&done))), 1);
    assert_eq!(registry.count(&digest(&gzip(&under_way))), 2);
    assert!(store.image(&image.manifest_digest).unwrap().is_some());
}
