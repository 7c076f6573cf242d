//! Original blobs that are kept: what they cost, who removes them, and archives that are exact. No privilege needed.

mod layout;
mod loading;
mod registry;

use std::path::PathBuf;

use layout::{REF_NAME, index, layout, named};
use loading::{House, house, names, stream, two_layers};
use longshore_image::{Format, Image, Load, Prune};
use registry::{Registry, digest, gzip};
use serde_json::{Value, json};

fn blobs(house: &House) -> Vec<String> {
    let mut found = names(&house.path().join("blobs/sha256"));
    found.sort();
    found
}

fn hexes(blobs: &[Vec<u8>]) -> Vec<String> {
    let hex = |blob: &Vec<u8>| digest(blob)["sha256:".len()..].to_owned();
    let mut all: Vec<String> = blobs.iter().map(hex).collect();
    all.sort();
    all
}

fn compressed() -> Vec<Vec<u8>> {
    two_layers().iter().map(|layer| gzip(layer)).collect()
}

fn bytes_of(house: &House, hex: &str) -> PathBuf {
    house.path().join("blobs/sha256").join(hex).join("blob")
}

fn saved(house: &House, name: &str, format: Format) -> Result<(Vec<u8>, Vec<String>), String> {
    let saving = house.store.save(&[name.to_owned()], format);
    let saving = saving.map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    saving.write(&mut bytes).map_err(|e| e.to_string())?;
    assert_eq!(bytes.len() as u64, saving.size());
    Ok((bytes, saving.digests().to_vec()))
}

async fn pulled(house: &House, registry: &Registry) -> Image {
    let reference = registry.reference("a:1");
    house.store.pull(&reference, |_| {}).await.unwrap()
}

#[tokio::test]
async fn a_pull_keeps_blobs_only_where_it_is_asked_to_and_fetches_what_it_lacks() {
    let (house, registry) = (house(), Registry::start().await);
    registry.push("a", "1", &two_layers());
    let name = registry.reference("a:1");
    pulled(&house, &registry).await;
    assert_eq!(blobs(&house), [""; 0]);
    let error = saved(&house, &name, Format::Exact).unwrap_err();
    assert!(error.contains("--image-keep-blobs"), "{error}");

    // The layers are here and are not unpacked again.
    house.store.keep_blobs(true);
    let image = pulled(&house, &registry).await;
    assert_eq!(blobs(&house), hexes(&compressed()));
    for (hex, blob) in hexes(&compressed()).iter().zip(sorted(compressed())) {
        assert_eq!(std::fs::read(bytes_of(&house, hex)).unwrap(), blob);
    }
    let asked = registry.state().asked.len();
    pulled(&house, &registry).await;
    let state = registry.state();
    let again = &state.asked[asked..];
    assert!(
        again.iter().all(|line| line.starts_with("HEAD")),
        "{again:?}"
    );
    drop(state);

    for format in [Format::Exact, Format::Oci] {
        let (archive, digests) = saved(&house, &name, format).unwrap();
        assert_eq!(digests, [image.manifest_digest.as_str()]);
        let other = loading::house();
        other.store.keep_blobs(true);
        let again = other.load_apart(stream(archive.clone()));
        assert_eq!(again.manifest_digest, image.manifest_digest);
        assert_eq!(saved(&other, &name, Format::Exact).unwrap().0, archive);
    }
    // What docker reads has no place for them.
    let (docker, digests) = saved(&house, &name, Format::Docker).unwrap();
    assert!(docker.starts_with(b"manifest.json"));
    assert_ne!(digests, [image.manifest_digest.as_str()]);
}

fn sorted(mut blobs: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    blobs.sort_by_key(|blob| digest(blob));
    blobs
}

#[tokio::test]
async fn a_blob_that_is_damaged_on_its_way_is_never_kept() {
    let (house, registry) = (house(), Registry::start().await);
    house.store.keep_blobs(true);
    registry.push("a", "1", &two_layers());
    registry.state().damage = Some(1);
    let reference = registry.reference("a:1");
    house.store.pull(&reference, |_| {}).await.unwrap_err();
    assert_eq!(blobs(&house), [""; 0]);
    house.holds_nothing();
    registry.state().damage = None;
    // The bytes break off, and are taken up where they broke.
    registry.state().cut = (1, 100);
    pulled(&house, &registry).await;
    assert_eq!(blobs(&house), hexes(&compressed()));
}

#[test]
fn the_index_that_an_image_came_from_is_kept_and_leads_to_it_again() {
    let house = house();
    house.store.keep_blobs(true);
    let mut files = layout::Files::default();
    let mut own = layout::image(&mut files, &two_layers());
    own["platform"] = json!({"os": "linux", "architecture": registry::arch()});
    let mut foreign = own.clone();
    foreign["platform"]["architecture"] = json!("s390x");
    foreign["digest"] = json!(digest(b"nobody has it"));
    let list =
        json!({"schemaVersion": 2, "mediaType": registry::INDEX, "manifests": [foreign, own]});
    let top = files.blob(registry::INDEX, list.to_string());
    index(&mut files, &[named(top.clone(), REF_NAME, "r.io/a:1")]);
    let image = house
        .load(stream(files.tar()), &Load::default())
        .unwrap()
        .remove(0);
    let mut all = compressed();
    all.push(list.to_string().into_bytes());
    assert_eq!(blobs(&house), hexes(&all));

    let (archive, digests) = saved(&house, "r.io/a:1", Format::Exact).unwrap();
    assert_eq!(digests, [image.manifest_digest.as_str()]);
    let mut entries = tar::Archive::new(archive.as_slice());
    let mut all = entries.entries().unwrap().map(Result::unwrap);
    let mut entry = all
        .find(|e| e.path().unwrap().ends_with("index.json"))
        .unwrap();
    let said: Value = serde_json::from_reader(&mut entry).unwrap();
    assert_eq!(said["manifests"][0]["digest"], top["digest"]);
    assert_eq!(said["manifests"][0]["mediaType"], registry::INDEX);
    let other = loading::house();
    let again = other.load(stream(archive), &Load::default()).unwrap();
    assert_eq!(again[0].manifest_digest, image.manifest_digest);
    let by_index = format!("r.io/a@{}", top["digest"].as_str().unwrap());
    assert!(other.store.details(&by_index).unwrap().whole);
}

#[test]
fn blobs_count_and_go_with_their_image() {
    let house = house();
    house.store.keep_blobs(true);
    let load = |name: &str, layers: &[Vec<u8>]| {
        let files = layout(name, layers);
        house.load(stream(files.tar()), &Load::default()).unwrap();
    };
    // They have one layer in common.
    load("r.io/a:1", &two_layers());
    load("r.io/b:1", &two_layers()[..1]);
    let usage = house.store.usage().unwrap();
    assert_eq!((usage.blobs, usage.unused_blobs), (2, 0));
    assert!(usage.blobs_size > 200_000, "{usage:?}");
    let held = || vec!["r.io/b:1".to_owned()];
    let told = house.store.prune(Prune::Unused, &[], &held, true).unwrap();
    let done = house.store.prune(Prune::Unused, &[], &held, false).unwrap();
    assert_eq!((told.blobs, told.bytes), (done.blobs, done.bytes));
    assert_eq!((done.layers, done.blobs), (1, 1));
    assert_eq!(blobs(&house), hexes(&compressed()[..1]));
    saved(&house, "r.io/b:1", Format::Exact).unwrap();
    house
        .store
        .prune(Prune::Unused, &[], &Vec::new, false)
        .unwrap();
    assert_eq!(blobs(&house), [""; 0]);
    assert_eq!(house.store.usage().unwrap().blobs_size, 0);
}

#[test]
fn fsck_finds_a_changed_bit_of_a_blob_and_the_image_stays_whole() {
    let house = house();
    house.store.keep_blobs(true);
    let files = layout("r.io/a:1", &two_layers());
    let load = || {
        house
            .load(stream(files.tar()), &Load::default())
            .unwrap()
            .remove(0)
    };
    let image = load();
    assert!(house.store.settle(std::time::Duration::from_secs(60)));
    let clean = house.store.fsck(false, &|_| {}).unwrap();
    assert_eq!((clean.blobs, clean.damaged), (2, vec![]));
    let hex = hexes(&compressed()[..1]).remove(0);
    for repair in [false, true] {
        let mut bytes = std::fs::read(bytes_of(&house, &hex)).unwrap();
        bytes[1000] ^= 1;
        std::fs::write(bytes_of(&house, &hex), bytes).unwrap();
        let error = saved(&house, "r.io/a:1", Format::Exact).unwrap_err();
        assert!(error.contains("fsck --repair"), "{error}");
        let report = house.store.fsck(repair, &|_| {}).unwrap();
        let [damage] = report.damaged.as_slice() else {
            panic!("{:?}", report.damaged)
        };
        assert_eq!(damage.path, format!("blobs/sha256/{hex}"));
        assert!(damage.cause.contains("wrong digest"), "{}", damage.cause);
        assert_eq!(damage.references, ["r.io/a:1"]);
        assert_eq!(bytes_of(&house, &hex).exists(), !repair);
        // It is whole without, and what is saved is made anew.
        assert!(house.store.image(&image.manifest_digest).unwrap().is_some());
        let (_, digests) = saved(&house, "r.io/a:1", Format::Oci).unwrap();
        assert_ne!(digests, [image.manifest_digest.as_str()]);
        load();
        saved(&house, "r.io/a:1", Format::Exact).unwrap();
    }
}
