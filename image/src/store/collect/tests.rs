use super::*;
use crate::digest::Digest;
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(60 * 60);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + 10_000 * HOUR
}

fn layer(n: u32) -> Digest {
    Digest::of(&n.to_le_bytes())
}

/// An image of these layers, unused for so many hours. `""`: it has no name.
fn image(name: &str, hours: u32, layers: &[u32]) -> Entry {
    let seed = format!("{name} {hours} {layers:?}");
    let named = |reference: &str| Name {
        reference: reference.to_owned(),
        file: format!("refs/{reference}"),
        top: String::new(),
    };
    Entry {
        digest: Digest::of(seed.as_bytes()),
        names: (!name.is_empty())
            .then(|| named(name))
            .into_iter()
            .collect(),
        config: Some(Digest::of(b"config")),
        layers: Some(layers.iter().map(|n| layer(*n)).collect()),
        blobs: Vec::new(),
        last_used: now() - hours * HOUR,
    }
}

fn census(images: Vec<Entry>) -> Census {
    let layers = images.iter().flat_map(Entry::layer_paths);
    Census {
        layers: layers
            .filter(|path| path.starts_with("layers/sha256"))
            .collect(),
        images,
        ..Census::default()
    }
}

fn facts<'a>(census: &'a Census, protected: &'a [String]) -> Facts<'a> {
    Facts {
        census,
        held: BTreeSet::new(),
        protected,
        now: now(),
    }
}

/// Each layer is 10 bytes and 1 inode.
fn ten(path: &str) -> (u64, u64) {
    match path.starts_with("layers/sha256") {
        true => (10, 1),
        false => (0, 0),
    }
}

fn percent(used: u64) -> Fullness {
    Fullness {
        bytes_used: used,
        bytes_free: 100 - used,
        ..Fullness::default()
    }
}

#[track_caller]
fn goes(facts: &Facts<'_>, wish: &Wish<'_>) -> Vec<(String, Why)> {
    let plan = plan(facts, wish, &ten);
    let named = |image: &Entry| {
        image
            .names
            .first()
            .map_or(String::new(), |n| n.reference.clone())
    };
    plan.images
        .iter()
        .map(|(image, why)| (named(image), *why))
        .collect()
}

#[test]
fn a_full_disk_takes_what_was_used_longest_ago_until_the_low_mark() {
    let census = census(vec![
        image("young", 2, &[1, 2]),
        image("old", 50, &[1, 3]),
        image("older", 60, &[1, 4]),
        image("", 3, &[5]),
        image("fresh", 0, &[6, 7, 8]),
    ]);
    let facts = facts(&census, &[]);
    let policy = GcPolicy::default();
    let at = |used| goes(&facts, &Wish::Policy(&policy, percent(used)));
    assert_eq!(at(85), [], "not above the high mark");
    // What has no name goes first: its layer alone is enough to come from 86 to 80.
    assert_eq!(at(86), [(String::new(), Why::Disk)]);
    // 11 to free: the next is the one that was used longest ago; their common layer stays, for `young` needs it.
    assert_eq!(
        at(91),
        [(String::new(), Why::Disk), ("older".to_owned(), Why::Disk)]
    );
    // Whatever is needed, what was used within the last hour stays.
    let greedy = GcPolicy {
        low: 0,
        ..GcPolicy::default()
    };
    let all = goes(&facts, &Wish::Policy(&greedy, percent(100)));
    let all: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(all, ["", "older", "old", "young"]);
}

#[test]
fn inodes_count_as_bytes_do() {
    let census = census(vec![image("old", 50, &[1]), image("older", 60, &[2])]);
    let facts = facts(&census, &[]);
    let policy = GcPolicy::default();
    let full = Fullness {
        bytes_used: 1,
        bytes_free: 1000,
        files_used: 90,
        files_free: 1,
    };
    let gone = goes(&facts, &Wish::Policy(&policy, full));
    assert_eq!(gone.len(), 2, "{gone:?}");
}

#[test]
fn an_image_goes_of_age_on_an_empty_disk() {
    let census = census(vec![image("old", 50, &[1]), image("young", 49, &[2])]);
    let facts = facts(&census, &[]);
    let policy = GcPolicy {
        max_age: Some(50 * HOUR),
        ..GcPolicy::default()
    };
    let gone = goes(&facts, &Wish::Policy(&policy, percent(1)));
    assert_eq!(gone, [("old".to_owned(), Why::Age)]);
}

#[test]
fn what_is_held_stood_on_or_protected_stays() {
    let mut census = census(vec![
        image("docker.io/library/held:1", 99, &[1]),
        image("docker.io/library/by-digest:1", 99, &[2]),
        image("docker.io/library/root:1", 99, &[3]),
        image("docker.io/library/base:1", 99, &[4]),
        image("docker.io/library/free:1", 99, &[5]),
    ]);
    census
        .with_roots
        .insert(census.images[2].digest.to_string());
    let protected = ["*/base:*".to_owned()];
    let by_digest = census.images[1].digest.to_string();
    let mut facts = facts(&census, &protected);
    facts.held = BTreeSet::from(["docker.io/library/held:1".to_owned(), by_digest]);
    let policy = GcPolicy::default();
    for wish in [
        Wish::Policy(&policy, percent(100)),
        Wish::Prune(Prune::Unused),
    ] {
        let plan = plan(&facts, &wish, &ten);
        assert_eq!((plan.in_use, plan.protected), (3, 1));
        assert_eq!(plan.images.len(), 1);
        assert_eq!(
            plan.images[0].0.names[0].reference,
            "docker.io/library/free:1"
        );
    }
}

#[test]
fn a_clock_that_was_set_back_makes_nothing_old() {
    let mut census = census(vec![image("future", 0, &[1])]);
    census.images[0].last_used = now() + 1000 * HOUR;
    let facts = facts(&census, &[]);
    let policy = GcPolicy {
        max_age: Some(HOUR),
        ..GcPolicy::default()
    };
    assert_eq!(goes(&facts, &Wish::Policy(&policy, percent(100))), []);
}

#[test]
fn patterns_match_whole_references() {
    let name = "docker.io/library/busybox:1.36";
    for yes in [
        "*",
        name,
        "docker.io/*",
        "*busybox*",
        "*:1.3?",
        "**/busybox:*",
        "d*k*r.io/*/*:*",
    ] {
        assert!(matches(yes, name), "{yes}");
    }
    for no in [
        "",
        "busybox",
        "docker.io/",
        "*:1.3",
        "?",
        "*/nginx:*",
        "docker.io/library/busybox:1.36?",
    ] {
        assert!(!matches(no, name), "{no}");
    }
    assert!(matches("", ""));
    // Many stars are no work: each is tried from its last place on only.
    assert!(!matches(&"*a".repeat(50), &"a".repeat(49)));
}

proptest! {
    /// Whatever the store and the policy, what is needed stays, and what goes is enough or all that there is.
    #[test]
    fn a_plan_takes_nothing_that_is_needed_and_stops_at_the_mark(
        ages in proptest::collection::vec((0u32..100, proptest::collection::vec(0u32..8, 0..4), any::<bool>()), 0..12),
        used in 0u64..=100,
        held in 0usize..12,
    ) {
        let all = ages.iter().enumerate();
        let images = all.map(|(n, (age, layers, named))| {
            image(&if *named { format!("n{n}") } else { String::new() }, *age, layers)
        });
        let census = census(images.collect());
        let mut facts = facts(&census, &[]);
        if let Some(image) = census.images.get(held) {
            facts.held.insert(image.digest.to_string());
        }
        let policy = GcPolicy::default();
        let plan = plan(&facts, &Wish::Policy(&policy, percent(used)), &ten);
        for (image, _) in &plan.images {
            prop_assert!(!facts.is_in_use(image));
            prop_assert!(facts.unused_for(image) >= policy.min_age);
        }
        let mut needed = Needed::of(&census);
        let mut last = 0;
        for (image, _) in &plan.images {
            last = needed.freed.0;
            needed.without(image, &ten);
        }
        match percent(used).above(policy.high, policy.low) {
            None => prop_assert!(plan.images.is_empty()),
            Some((wanted, _)) => prop_assert!(last < wanted || plan.images.is_empty()),
        }
    }
}
