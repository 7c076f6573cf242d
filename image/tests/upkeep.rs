//! Collecting, verifying, and when a registry is asked; over a registry in this process. No privilege needed.

mod registry;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use longshore_image::{
    Done, GcPolicy, Image, Prune, PullBehaviour, Registries, Store, Why, canonical_reference,
};
use registry::{Registry, tar_of};

const PATIENCE: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

struct House {
    dir: tempfile::TempDir,
    store: Store,
    registry: Registry,
}

impl House {
    async fn new() -> House {
        // In memory where that can be: a store syncs its whole file system.
        let dir = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let store = Store::open(&dir.path().join("store"), Registries::default()).unwrap();
        let registry = Registry::start().await;
        House {
            dir,
            store,
            registry,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("store").join(name)
    }

    /// Pushes and pulls an image of a layer of its own above one that all have.
    async fn image(&self, name: &str) -> Image {
        let own = format!("own {name}");
        let layers = [
            tar_of(&[("base", b"base")]),
            tar_of(&[("own", own.as_bytes())]),
        ];
        self.registry.push(name, "1", &layers);
        self.pull(name, PullBehaviour::Default).await.unwrap()
    }

    async fn pull(&self, name: &str, behaviour: PullBehaviour) -> Result<Image, String> {
        let reference = self.registry.reference(&format!("{name}:1"));
        let pulled = self.store.pull_held(&reference, behaviour, |_| {}).await;
        pulled.map(|(image, _)| image).map_err(|e| e.to_string())
    }

    /// As if the image had last been used so long ago.
    fn grow_old(&self, image: &Image, by: Duration) {
        let hex = image.manifest_digest.strip_prefix("sha256:").unwrap();
        let file = std::fs::File::open(self.path("manifests").join(hex)).unwrap();
        file.set_modified(SystemTime::now() - by).unwrap();
    }

    fn layers(&self) -> usize {
        std::fs::read_dir(self.path("layers/sha256"))
            .unwrap()
            .count()
    }

    fn layer(&self, image: &Image, at: usize) -> PathBuf {
        let hex = image.layers[at].strip_prefix("sha256:").unwrap();
        self.path("layers/sha256").join(hex)
    }

    fn is_there(&self, image: &Image) -> bool {
        self.store.image(&image.manifest_digest).unwrap().is_some()
    }
}

fn nobody() -> Vec<String> {
    Vec::new()
}

#[tokio::test]
async fn an_image_goes_of_age_with_what_it_alone_needs_and_a_dry_run_says_so() {
    let house = House::new().await;
    let (old, young) = (house.image("old").await, house.image("young").await);
    house.grow_old(&old, 8 * DAY);
    house.grow_old(&young, 6 * DAY);
    let policy = GcPolicy {
        max_age: Some(7 * DAY),
        // Whatever the machine's memory looks like.
        high: 100,
        ..GcPolicy::default()
    };
    let told = house.store.collect(&policy, &nobody, true).unwrap();
    assert!(told.dry_run && house.is_there(&old) && house.layers() == 3);
    let done = house.store.collect(&policy, &nobody, false).unwrap();
    assert_eq!(told.images, done.images);
    assert_eq!((told.layers, told.bytes), (done.layers, done.bytes));
    assert_eq!(done.images.len(), 1);
    assert_eq!(
        done.images[0].references,
        [house.registry.reference("old:1")]
    );
    assert_eq!(done.images[0].why, Why::Age);
    assert_eq!(done.layers, 1);
    assert!(!house.is_there(&old) && house.is_there(&young));
    assert!(house.store.settle(PATIENCE));
    assert_eq!(house.layers(), 2);
    assert_eq!(std::fs::read_dir(house.path("trash")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(house.path("configs")).unwrap().count(), 1);
    let json = serde_json::to_value(&done).unwrap();
    assert_eq!(json["Images"][0]["Why"], "age");
}

#[tokio::test]
async fn a_full_disk_takes_the_least_recently_used_and_nothing_that_is_needed() {
    let house = House::new().await;
    let mut images = Vec::new();
    for (at, name) in ["held", "named", "kept", "free", "fresh"]
        .into_iter()
        .enumerate()
    {
        let image = house.image(name).await;
        if name != "fresh" {
            house.grow_old(&image, (9 - at as u32) * DAY);
        }
        images.push(image);
    }
    // A disk that is fuller than any mark, and never empty enough.
    let policy = GcPolicy {
        high: 0,
        low: 0,
        protected: vec!["*/kept:*".to_owned()],
        ..GcPolicy::default()
    };
    let held = || {
        vec![
            images[0].manifest_digest.clone(),
            house.registry.reference("named:1"),
        ]
    };
    let done = house.store.collect(&policy, &held, false).unwrap();
    assert_eq!((done.in_use, done.protected, done.images.len()), (2, 1, 1));
    assert_eq!(done.images[0].digest, images[3].manifest_digest);
    assert_eq!(done.images[0].why, Why::Disk);
    let there: Vec<bool> = images.iter().map(|image| house.is_there(image)).collect();
    assert_eq!(there, [true, true, true, false, true]);
}

#[tokio::test]
async fn a_root_keeps_its_image_and_its_end_is_a_use() {
    let house = House::new().await;
    let image = house.image("a").await;
    // What `mount_root` makes, without the privilege to mount.
    let root = house.path("roots/x");
    std::fs::create_dir_all(root.join("l")).unwrap();
    let record = serde_json::json!({"version": 1, "manifest": image.manifest_digest});
    std::fs::write(root.join("image.json"), record.to_string()).unwrap();
    let hex = image.layers[1].strip_prefix("sha256:").unwrap();
    let link = format!("../../../layers/sha256/{hex}/fs");
    std::os::unix::fs::symlink(link, root.join("l/0")).unwrap();
    house.grow_old(&image, 9 * DAY);
    let prune = || {
        house
            .store
            .prune(Prune::Unused, &[], &nobody, false)
            .unwrap()
    };
    assert_eq!((prune().in_use, house.is_there(&image)), (1, true));
    // Also when nobody knows any more whose root it is.
    std::fs::write(root.join("image.json"), "{").unwrap();
    prune();
    assert!(!house.is_there(&image));
    assert!(house.store.settle(PATIENCE));
    assert_eq!(house.layers(), 1, "what the root stands on");
    assert!(house.layer(&image, 1).exists());

    let image = house.image("b").await;
    let record = serde_json::json!({"version": 1, "manifest": image.manifest_digest});
    std::fs::write(root.join("image.json"), record.to_string()).unwrap();
    house.grow_old(&image, 9 * DAY);
    house.store.remove_root("x").unwrap();
    let policy = GcPolicy {
        max_age: Some(DAY),
        ..GcPolicy::default()
    };
    house.store.collect(&policy, &nobody, false).unwrap();
    assert!(house.is_there(&image), "it was used until just now");
}

#[tokio::test]
async fn a_tag_that_moved_on_leaves_an_image_that_prune_takes() {
    let house = House::new().await;
    let first = house.image("a").await;
    house.registry.push("a", "1", &[tar_of(&[("other", b"x")])]);
    let second = house.pull("a", PullBehaviour::Default).await.unwrap();
    let other = house.image("b").await;
    let done = house
        .store
        .prune(Prune::Dangling, &[], &nobody, false)
        .unwrap();
    assert_eq!(done.images.len(), 1);
    assert_eq!(
        (&done.images[0].digest, &done.images[0].references),
        (&first.manifest_digest, &vec![])
    );
    assert!(house.is_there(&second) && house.is_there(&other));
    let done = house
        .store
        .remove_image(&other.manifest_digest, &nobody, false)
        .unwrap();
    assert_eq!((done.images.len(), done.in_use), (1, 0));
    assert!(house.is_there(&second) && !house.is_there(&other));
    let held = || vec![second.manifest_digest.clone()];
    let done = house
        .store
        .remove_image(&second.manifest_digest, &held, false)
        .unwrap();
    assert_eq!((done.images.len(), done.in_use), (0, 1));
    assert!(house.is_there(&second));
}

#[tokio::test]
async fn fsck_finds_a_changed_bit_and_repair_lets_the_next_pull_mend_it() {
    let house = House::new().await;
    let (image, other) = (house.image("a").await, house.image("b").await);
    assert!(house.store.settle(PATIENCE));
    let clean = house.store.fsck(false, &|_| {}).unwrap();
    assert_eq!((clean.images, clean.layers, clean.damaged.len()), (2, 3, 0));
    assert_eq!((clean.bytes > 0, clean.unproven.len()), (true, 0));

    // A bit of a file, at the same size and time.
    let file = house.layer(&image, 1).join("fs/own");
    let time = std::fs::metadata(&file).unwrap().modified().unwrap();
    let mut content = std::fs::read(&file).unwrap();
    content[0] ^= 1;
    std::fs::write(&file, content).unwrap();
    std::fs::File::open(&file)
        .unwrap()
        .set_modified(time)
        .unwrap();
    let found = house.store.fsck(false, &|_| {}).unwrap();
    assert_eq!(found.damaged.len(), 1, "{found:?}");
    let damage = &found.damaged[0];
    assert_eq!(
        (&damage.done, &damage.references),
        (&Done::SetAside, &vec![house.registry.reference("a:1")])
    );
    assert!(damage.cause.contains("has changed"), "{damage:?}");
    assert!(!house.is_there(&image) && house.is_there(&other));
    assert!(file.exists(), "it can still be looked at");

    let repaired = house.store.fsck(true, &|_| {}).unwrap();
    assert!(
        repaired
            .damaged
            .iter()
            .any(|d| d.path.starts_with("layers/") && d.done == Done::Removed)
    );
    assert!(!house.layer(&image, 1).exists());
    house.pull("a", PullBehaviour::Default).await.unwrap();
    assert!(house.store.settle(PATIENCE));
    assert_eq!(std::fs::read(&file).unwrap(), b"own a");
    let clean = house.store.fsck(false, &|_| {}).unwrap();
    assert_eq!((clean.damaged.len(), clean.layers), (0, 3), "{clean:?}");
}

#[tokio::test]
async fn fsck_finds_damaged_records_and_a_repaired_store_has_none() {
    let house = House::new().await;
    let image = house.image("a").await;
    let only = |directory: &str| {
        let mut entries = std::fs::read_dir(house.path(directory)).unwrap();
        entries.next().unwrap().unwrap().path()
    };
    type Harm = (&'static str, fn(&Path));
    let harms: [Harm; 5] = [
        ("refs", |file| std::fs::write(file, "{").unwrap()),
        ("configs", |file| std::fs::write(file, "{}").unwrap()),
        ("configs", |file| std::fs::remove_file(file).unwrap()),
        ("manifests", |file| std::fs::write(file, "").unwrap()),
        ("manifests", |file| std::fs::remove_file(file).unwrap()),
    ];
    for (directory, harm) in harms {
        harm(&only(directory));
        assert!(
            !house.store.fsck(false, &|_| {}).unwrap().damaged.is_empty(),
            "{directory}"
        );
        house.store.fsck(true, &|_| {}).unwrap();
        let after = house.store.fsck(false, &|_| {}).unwrap();
        assert_eq!(after.damaged, [], "{directory}");
        house.pull("a", PullBehaviour::Default).await.unwrap();
        assert!(house.is_there(&image), "{directory}");
        assert_eq!(
            house.store.fsck(false, &|_| {}).unwrap().damaged,
            [],
            "{directory}"
        );
    }
    // A layer's own record, and a layer that is gone.
    std::fs::write(house.layer(&image, 0).join("layer.json"), "{").unwrap();
    std::fs::remove_dir_all(house.layer(&image, 1)).unwrap();
    let found = house.store.fsck(true, &|_| {}).unwrap();
    assert!(found.damaged.len() >= 2, "{found:?}");
    house.pull("a", PullBehaviour::Default).await.unwrap();
    assert!(house.is_there(&image));
}

#[tokio::test]
async fn what_a_root_stands_on_is_set_aside_and_stays_until_the_root_is_gone() {
    let house = House::new().await;
    let image = house.image("a").await;
    assert!(house.store.settle(PATIENCE));
    let hex = image.layers[1].strip_prefix("sha256:").unwrap();
    let root = house.path("roots/x");
    std::fs::create_dir_all(root.join("l")).unwrap();
    std::os::unix::fs::symlink(format!("../../../layers/sha256/{hex}/fs"), root.join("l/0"))
        .unwrap();
    let file = house.layer(&image, 1).join("fs/own");
    std::fs::write(&file, "damaged").unwrap();
    let found = house.store.fsck(true, &|_| {}).unwrap();
    let layer = found
        .damaged
        .iter()
        .find(|d| d.path.ends_with(hex))
        .unwrap();
    assert_eq!(layer.done, Done::InUse(vec!["x".to_owned()]));
    assert!(file.exists());
    // The next pull puts a whole one in its place; the old one stays somewhere, for the root's container has it open.
    house.pull("a", PullBehaviour::Default).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"own a");
    let aside = || std::fs::read_dir(house.path("aside")).unwrap().count();
    assert!(house.store.settle(PATIENCE));
    assert_eq!(aside(), 1);
    house.store.remove_root("x").unwrap();
    assert!(house.store.settle(PATIENCE));
    assert_eq!(aside(), 0);
}

#[tokio::test]
async fn a_registry_is_asked_as_the_behaviour_says() {
    use PullBehaviour::{Always, Default, Once, PreferCached};
    let house = House::new().await;
    let first = house.image("a").await;
    let asked = || house.registry.count("/manifests/");
    let before = asked();
    for behaviour in [Once, PreferCached] {
        assert_eq!(
            house.pull("a", behaviour).await.unwrap().manifest_digest,
            first.manifest_digest
        );
    }
    assert_eq!(asked(), before, "what is stored serves");
    for (nth, behaviour) in [Default, Always].into_iter().enumerate() {
        house.pull("a", behaviour).await.unwrap();
        assert_eq!(asked(), before + nth + 1);
    }
    let by_digest = house
        .registry
        .reference(&format!("a@{}", first.manifest_digest));
    house
        .store
        .pull_held(&by_digest, Default, |_| {})
        .await
        .unwrap();
    assert_eq!(asked(), before + 2, "a digest that is stored");
    house
        .store
        .pull_held(&by_digest, Always, |_| {})
        .await
        .unwrap();
    assert!(asked() > before + 2);

    house.registry.state().status = Some(StatusCode::SERVICE_UNAVAILABLE);
    for (behaviour, serves) in [
        (Default, true),
        (Once, true),
        (PreferCached, true),
        (Always, false),
    ] {
        assert_eq!(
            house.pull("a", behaviour).await.is_ok(),
            serves,
            "{behaviour}"
        );
    }
    assert!(house.pull("never-pulled", Once).await.is_err());
    house.registry.state().status = None;

    house.registry.push("ahead", "1", &[tar_of(&[("f", b"x")])]);
    let ahead = house.registry.reference("ahead:1");
    house.store.prefetch(&ahead).await.unwrap();
    house.registry.state().status = Some(StatusCode::SERVICE_UNAVAILABLE);
    house.store.prefetch(&ahead).await.unwrap();
    house.pull("ahead", Once).await.unwrap();
    assert_eq!(
        canonical_reference("busybox").unwrap(),
        "docker.io/library/busybox:latest"
    );
}
