//! Registries that lie about content. Each lie has a name, and leaves nothing behind. No privilege needed.

mod faulty;
mod house;
mod registry;
mod rich;

use std::sync::Arc;

use faulty::image::OneLayer;
use faulty::{Reply, Server, reply};
use house::{house, names};
use longshore_image::Registries;
use registry::{INDEX, MANIFEST, Registry, digest, noise, tar_of};
use serde_json::json;

#[tokio::test]
async fn lies_about_content_are_named_and_leave_nothing() {
    let registry = Registry::start().await;
    let tar = tar_of(&[("f", &noise(5000))]);
    let refused = async |reference: &str, said: &str| {
        let house = house(Registries::default());
        let error = house
            .pull(&registry.reference(reference))
            .await
            .unwrap_err();
        assert!(error.contains(said), "{said}: {error}");
        house.holds_nothing();
    };
    registry.push("a", "t", std::slice::from_ref(&tar));
    registry.state().damage = Some(4000);
    refused("a:t", "wrong digest: the bytes have").await;
    registry.state().damage = Some(0);
    refused("a:t", "wrong digest: asked for").await;
    registry.state().damage = None;

    let other = digest(b"other");
    registry.push_with(
        "b",
        "t",
        std::slice::from_ref(&tar),
        std::slice::from_ref(&other),
    );
    refused(
        "b:t",
        &format!("wrong diff ID: the image's configuration says {other}"),
    )
    .await;
    registry.push_with("c", "t", &[], &[other]);
    refused("c:t", "names 1 diff IDs, the manifest 0 layers").await;

    registry.state().tag_digest = Some(digest(b"lie"));
    refused("a:t", "wrong digest: the registry says").await;
    registry.state().tag_digest = None;
    let (media_type, bytes) = registry.state().manifests["a/manifests/t"].clone();
    let asked = format!("a/manifests/{}", digest(b"asked"));
    registry
        .state()
        .manifests
        .insert(asked, (media_type, bytes));
    refused(
        &format!("a@{}", digest(b"asked")),
        "wrong digest: asked for",
    )
    .await;

    registry.push("d", "t", &[tar_of(&[("../../../escape", b"bad")])]);
    refused("d:t", "entry `../../../escape` is refused").await;
    let huge = vec![b' '; 4 * 1024 * 1024 + 1];
    registry
        .state()
        .manifests
        .insert("e/manifests/t".into(), (MANIFEST.into(), huge));
    refused("e:t", "sent more than 4194304 bytes").await;
    let v1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    registry.manifest("f", "t", v1, json!({"schemaVersion": 1}));
    refused("f:t", "schema 1").await;
}

#[tokio::test]
async fn an_index_whose_line_lies_is_named() {
    let registry = Registry::start().await;
    let own = registry.push("a", "own", &[tar_of(&[("f", b"x")])]);
    let (media_type, bytes) = registry.state().manifests[&format!("a/manifests/{own}")].clone();
    let other = digest(b"other");
    let refused = async |digest: &str, size: usize, said: &str| {
        let line = json!({"mediaType": MANIFEST, "digest": digest, "size": size,
            "platform": {"os": "linux", "architecture": registry::arch()}});
        let index = json!({"schemaVersion": 2, "manifests": [line]});
        registry.manifest("a", "all", INDEX, index);
        let house = house(Registries::default());
        let error = house.pull(&registry.reference("a:all")).await.unwrap_err();
        assert!(error.contains(said), "{said}: {error}");
        house.holds_nothing();
    };
    refused(&own, bytes.len() + 1, "is not as long as the index says").await;
    refused(
        &other,
        bytes.len(),
        "the registry lacks this platform's part",
    )
    .await;
    let key = format!("a/manifests/{other}");
    registry
        .state()
        .manifests
        .insert(key, (media_type, bytes.clone()));
    refused(
        &other,
        bytes.len(),
        &format!("wrong digest: asked for {other}"),
    )
    .await;
}

#[tokio::test]
async fn sizes_that_are_not_as_promised_are_named() {
    let tar = tar_of(&[("f", &noise(5000))]);
    let whole = Arc::new(OneLayer::plain(tar));
    let chunked = |bytes: &[u8], end: &str| {
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        let size = format!("{:x}\r\n", bytes.len());
        [&head, size.as_bytes(), bytes, end.as_bytes()].concat()
    };
    let endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let len = whole.layer.len();
    let shorter = &whole.layer[..len - 1];
    let longer = [&whole.layer[..], b"x"].concat();
    let short_head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", len - 1);
    let cases: [(Vec<u8>, bool, &str); 6] = [
        (
            bytes_of(reply("200 OK", &[], shorter)),
            false,
            "wrong size: the registry has",
        ),
        (
            bytes_of(reply("200 OK", &[], &longer)),
            false,
            "wrong size: the registry has",
        ),
        // Says less than it sends, and says more.
        (
            [short_head.as_bytes(), &whole.layer].concat(),
            false,
            "wrong size: the registry has",
        ),
        (whole.announced(len - 1), false, "broken off after"),
        (chunked(&longer, "\r\n0\r\n\r\n"), false, "longer than the"),
        (endless, true, "longer than the"),
    ];
    for (answer, endless, said) in cases {
        let served = Arc::clone(&whole);
        let server = Server::start(move |asked| {
            served.answer(asked, |asked| match asked.header("range") {
                // There is no more of it than the first time.
                Some(_) => reply("416 Range Not Satisfiable", &[], ""),
                None if endless => Reply::Endless(answer.clone()),
                None => Reply::Bytes(answer.clone()),
            })
        })
        .await;
        let house = house(Registries::default());
        let error = house.pull(&format!("{}/a:t", server.authority)).await;
        let error = error.unwrap_err();
        assert!(
            error.starts_with("fetch layer sha256:") && error.contains(said),
            "{said}: {error}"
        );
        house.holds_nothing();
    }
    let endless = Server::start(|_| Reply::Endless(b"HTTP/1.1 200 OK\r\n\r\n".to_vec())).await;
    let house = house(Registries::default());
    let error = house.pull(&format!("{}/a:t", endless.authority)).await;
    assert!(error.unwrap_err().contains("sent more than 4194304 bytes"));
}

fn bytes_of(reply: Reply) -> Vec<u8> {
    match reply {
        Reply::Bytes(bytes) => bytes,
        _ => panic!("not a whole answer"),
    }
}

#[tokio::test]
async fn archives_that_are_bad_are_named_with_their_entry() {
    let registry = Registry::start().await;
    let bad: [(&str, Vec<u8>, &str); 4] = [
        (
            "climbs",
            tar_of(&[("a/../../escape", b"bad")]),
            "entry `a/../../escape` is refused",
        ),
        (
            "absolute",
            tar_of(&[("/escape", b"bad")]),
            "its name is absolute",
        ),
        ("noise", noise(5000), "check sum is wrong"),
        (
            "cut",
            tar_of(&[("f", &noise(5000))])[..3000].to_vec(),
            "ends inside an entry",
        ),
    ];
    for (name, tar, said) in bad {
        registry.push(name, "t", &[tar_of(&[("good", b"1")]), tar]);
        let house = house(Registries::default());
        let error = house.pull(&registry.reference(&format!("{name}:t"))).await;
        let error = error.unwrap_err();
        assert!(
            error.starts_with("unpack layer sha256:") && error.contains(said),
            "{said}: {error}"
        );
        assert!(names(&house.path().join("refs")).is_empty());
        // The store goes on.
        registry.push("good", "t", &[tar_of(&[("good", b"1")])]);
        house.pull(&registry.reference("good:t")).await.unwrap();
    }
}

#[tokio::test]
async fn links_into_layers_below_that_would_fill_the_disk_are_refused() {
    // A map of nothing, and more than a gibibyte of zeros where they are copied.
    let mut base = rich::Tar::new();
    let size = ((1u64 << 30) + 1).to_string();
    base.pax(&[
        ("GNU.sparse.size", size.as_bytes()),
        ("GNU.sparse.map", b"0,0"),
    ])
    .own("hole", b"");
    let mut upper = rich::Tar::new();
    upper.add(tar::EntryType::Link, "link", "hole", b"", 0o644, (0, 0));
    let registry = Registry::start().await;
    registry.push("a", "t", &[base.bytes(), upper.bytes()]);
    let house = house(Registries::default());
    let error = house.pull(&registry.reference("a:t")).await.unwrap_err();
    assert!(
        error.contains("a copy of `hole` would be needed")
            && error.contains("more than 1073741824 bytes"),
        "{error}"
    );
    assert_eq!(names(&house.path().join("refs")), [""; 0]);
    assert_eq!(names(&house.path().join("ingest")), [""; 0]);
}

/// As newer builders push: several frames, the last of them skippable, with a window as large as any of them used.
#[tokio::test]
async fn a_layer_of_zstd_frames_is_pulled_and_one_with_a_larger_window_is_refused() {
    let tar = tar_of(&[("f", b"x"), ("g", &noise(300_000))]);
    let (first, rest) = tar.split_at(1000);
    let frame = |bytes: &[u8], window_log: u32| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    const CONTENTS: &[u8] = b"\x5e\x2a\x4d\x18\x04\0\0\0toc\0";
    for (window_log, good) in [(25, true), (26, false)] {
        let layer = [&frame(first, 20), &frame(rest, window_log)[..], CONTENTS].concat();
        let image = OneLayer::new(layer, &digest(&tar));
        let server =
            Server::start(move |asked| image.answer(asked, |_| reply("200 OK", &[], &image.layer)))
                .await;
        let house = house(Registries::default());
        let pulled = house.pull(&format!("{}/a:t", server.authority)).await;
        match good {
            true => assert_eq!(house.file(&pulled.unwrap(), 0, "f"), b"x"),
            false => {
                let error = pulled.unwrap_err();
                assert!(error.contains("window is larger than 32 MiB"), "{error}");
                house.holds_nothing();
            }
        }
    }
}
