//! Exact copies: what Debian's registry has, pulled with its blobs, saved, and carried on by skopeo. Needs root.

mod docker_registry;
mod registry;
mod rich;

use std::path::Path;
use std::process::Command;

use docker_registry::{DockerRegistry, layout, run};
use longshore_image::{Format, Load, Origin, Registries, Store};
use registry::digest;
use rich::rich_layers;

fn skopeo(words: &[&str]) -> Vec<u8> {
    let output = Command::new("skopeo").args(words).output();
    let output = output.expect("skopeo is missing: install the package skopeo");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "skopeo {words:?}: {said}");
    output.stdout
}

/// Digest of what a registry or an archive has under a name.
fn raw_digest(name: &str) -> String {
    digest(&skopeo(&["inspect", "--tls-verify=false", "--raw", name]))
}

fn copy(from: &str, to: &str, more: &[&str]) {
    let words = [
        "copy",
        "--insecure-policy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
    ];
    skopeo(&[&words, more, &[from, to]].concat());
}

fn store(dir: &Path) -> Store {
    let store = Store::open(&dir.join("store"), Registries::default()).unwrap();
    store.keep_blobs(true);
    store
}

#[tokio::test]
#[ignore = "needs root"]
async fn what_is_saved_has_the_digest_that_the_registry_has() {
    let dir = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(dir.path(), "");
    let at = |name: &str| format!("{}/{name}", registry.authority);
    let source = format!("oci:{}:t", layout(dir.path(), &rich_layers()).display());
    copy(&source, &format!("docker://{}", at("oci:1")), &[]);
    copy(
        &source,
        &format!("docker://{}", at("docker:1")),
        &["--format=v2s2"],
    );
    let store = store(&dir.path().join("first"));
    for name in ["oci:1", "docker:1"] {
        let there = raw_digest(&format!("docker://{}", at(name)));
        let image = store.pull(&at(name), |_| {}).await.unwrap();
        assert_eq!(image.manifest_digest, there, "{name}");
        let archive = dir.path().join(name.replace(':', "-"));
        let saving = store.save(&[at(name)], Format::Exact).unwrap();
        assert_eq!(saving.digests(), [there.as_str()], "{name}");
        saving
            .write(std::fs::File::create(&archive).unwrap())
            .unwrap();

        let archived = format!("oci-archive:{}", archive.display());
        assert_eq!(raw_digest(&archived), there, "{name}");
        let copied = format!("docker://{}", at(&format!("copied-{name}")));
        copy(&archived, &copied, &["--preserve-digests"]);
        assert_eq!(raw_digest(&copied), there, "{name}");
        // And on another host of ours, which then asks the registry for nothing more.
        let other = self::store(&dir.path().join(name.replace(':', "+")));
        // It blocks, and a runtime's thread must not.
        let load = || other.load(Origin::Path(archive), &Load::default(), |_| ());
        let loaded = std::thread::scope(|scope| scope.spawn(load).join().unwrap());
        assert_eq!(loaded.unwrap()[0].manifest_digest, there, "{name}");
        assert_eq!(
            other.pull(&at(name), |_| {}).await.unwrap().manifest_digest,
            there
        );
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn an_image_of_several_platforms_is_saved_with_its_index() {
    let dir = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(dir.path(), "");
    let name = format!("{}/many:1", registry.authority);
    let source = layout(dir.path(), &rich_layers());
    // An index inside index.json, as registries have it.
    let index = std::fs::read(source.join("index.json")).unwrap();
    let mut index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let line = &mut index["manifests"][0];
    line["platform"] = serde_json::json!({"os": "linux", "architecture": registry::arch()});
    line.as_object_mut().unwrap().remove("annotations");
    index["mediaType"] = serde_json::json!(registry::INDEX);
    let bytes = index.to_string().into_bytes();
    let top = digest(&bytes);
    std::fs::write(source.join("blobs").join(top.replace(':', "/")), &bytes).unwrap();
    let outer = serde_json::json!({"schemaVersion": 2, "manifests": [
        {"mediaType": registry::INDEX, "digest": top, "size": bytes.len()}]});
    std::fs::write(source.join("index.json"), outer.to_string()).unwrap();
    copy(
        &format!("oci:{}", source.display()),
        &format!("docker://{name}"),
        &["--all"],
    );
    assert_eq!(raw_digest(&format!("docker://{name}")), top);

    let store = store(dir.path());
    let image = store.pull(&name, |_| {}).await.unwrap();
    assert_ne!(image.manifest_digest, top);
    let archive = dir.path().join("many.tar");
    let saving = store
        .save(std::slice::from_ref(&name), Format::Exact)
        .unwrap();
    assert_eq!(saving.digests(), [image.manifest_digest.as_str()]);
    saving
        .write(std::fs::File::create(&archive).unwrap())
        .unwrap();
    let archived = format!("oci-archive:{}", archive.display());
    assert_eq!(raw_digest(&archived), top);
    // skopeo takes this host's platform out of it.
    let copied = format!("docker://{}/copied:1", registry.authority);
    copy(&archived, &copied, &[]);
    assert_eq!(raw_digest(&copied), image.manifest_digest);
    let unpacked = dir.path().join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    run(
        "tar",
        Command::new("tar")
            .arg("-C")
            .arg(&unpacked)
            .arg("-xf")
            .arg(&archive),
    );
    run(
        "umoci",
        Command::new("umoci")
            .args(["unpack", "--image"])
            .arg(format!("{}:1", unpacked.display()))
            .arg(dir.path().join("bundle")),
    );
}
