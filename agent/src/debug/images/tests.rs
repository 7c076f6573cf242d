use std::path::Path;

use super::super::tests::Served;
use super::*;
use http::StatusCode;
use longshore_engine::Status;
use longshore_image::Registries;
use serde_json::Value;

/// A root file system of one file that belongs to whoever runs the test.
fn rootfs(dir: &Path) -> String {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_path("file").unwrap();
    header.set_size(4);
    header.set_mode(0o644);
    header.set_uid(rustix::process::geteuid().as_raw().into());
    header.set_gid(rustix::process::getegid().as_raw().into());
    header.set_cksum();
    builder.append(&header, &b"text"[..]).unwrap();
    let path = dir.join("rootfs.tar");
    std::fs::write(&path, builder.into_inner().unwrap()).unwrap();
    path.display().to_string()
}

fn with_store() -> Served {
    let served = Served::new();
    let images = served.sources.instance.state_root().join("images");
    let store = Store::open(&images, Registries::default()).unwrap();
    served.sources.images.set(Arc::new(store)).unwrap();
    served.sources.board.set_complete();
    served
}

/// The last of an answer's JSON lines.
fn last(body: &str) -> Value {
    let lines = super::super::tests::unchunked(body);
    serde_json::from_str(lines.lines().last().unwrap()).unwrap()
}

#[tokio::test]
async fn an_image_is_loaded_by_its_path_listed_named_saved_and_removed() {
    let served = with_store();
    let path = rootfs(served.dir.path());
    let load = format!("/v1/images/load?rootfs=true&tag=a:1&path={path}");
    let (status, body) = served.ask("POST", &load, b"").await;
    assert_eq!(
        (status, last(&body)["Images"][0]["Layers"].clone()),
        (200, json!(1)),
        "{body}"
    );
    served
        .ask("POST", "/v1/images/tag?image=a:1&tag=b", b"")
        .await;
    let listed = served.json("/v1/images").await;
    let names: Vec<_> = listed["Images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| &i["Reference"])
        .collect();
    assert_eq!(
        names,
        ["docker.io/library/a:1", "docker.io/library/b:latest"]
    );
    let details = served.json("/v1/images/inspect?image=b").await;
    assert_eq!(
        (&details["Whole"], &details["Layers"][0]["Entries"]),
        (&json!(true), &json!(1))
    );
    assert_eq!(served.json("/v1/images/df").await["Layers"], 1);

    let (status, archive) = served.get("/v1/images/archive?image=a:1&image=b").await;
    assert_eq!(status, 200);
    assert!(archive.starts_with("oci-layout"));
    let (_, docker) = served
        .get("/v1/images/archive?image=a:1&format=docker")
        .await;
    assert!(docker.starts_with("manifest.json"));
    let exact = "/v1/images/archive?image=a:1&format=exact";
    let (status, refused) = served.get(exact).await;
    assert_eq!(status, 400, "{refused}");
    assert!(refused.contains("original blobs"), "{refused}");
    served.sources.images.get().unwrap().keep_blobs(true);
    served.ask("POST", &load, b"").await;
    let (status, archive) = served.get(exact).await;
    assert_eq!(status, 200, "{archive}");
    assert!(archive.starts_with("oci-layout"));

    let (status, gone) = served.ask("DELETE", "/v1/images?image=b", b"").await;
    assert_eq!(status, 200, "{gone}");
    assert_eq!(
        served.json("/v1/images").await["Images"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn an_archive_may_be_the_body_and_one_that_lies_gets_its_answer_too() {
    let served = with_store();
    let archive = std::fs::read(rootfs(served.dir.path())).unwrap();
    let load = "/v1/images/load?rootfs=true&tag=a:1";
    let (status, body) = served.ask("POST", load, &archive).await;
    assert_eq!(
        (status, last(&body)["Images"][0]["Layers"].clone()),
        (200, json!(1)),
        "{body}"
    );
    // Far more than is in flight, and refused at its first bytes.
    let noise = vec![7; 8 << 20];
    let (_, body) = served.ask("POST", load, &noise).await;
    let error = last(&body)["Error"].clone();
    assert!(error.as_str().unwrap().contains("check sum"), "{error}");
}

#[tokio::test]
async fn what_is_not_there_or_asked_for_wrongly_is_told() {
    let served = Served::new();
    let (status, body) = served.get("/v1/images").await;
    assert_eq!(status, 503, "{body}");
    let served = with_store();
    for (method, path, status, why) in [
        ("GET", "/v1/images/inspect", 400, "say image="),
        (
            "GET",
            "/v1/images/inspect?image=a",
            400,
            "longshore image ls lists",
        ),
        ("GET", "/v1/images?x=1", 400, "is not known here"),
        ("GET", "/v1/images/archive", 400, "say image="),
        (
            "GET",
            "/v1/images/archive?image=a&format=zip",
            400,
            "use oci, exact or docker",
        ),
        ("GET", "/v1/images/pull?image=a", 405, "is not asked for so"),
        (
            "POST",
            "/v1/images/load?path=relative",
            400,
            "from the root on",
        ),
        ("POST", "/v1/images/other", 404, "is not served"),
        (
            "DELETE",
            "/v1/images?image=a",
            400,
            "longshore image ls lists",
        ),
        ("PATCH", "/v1/images", 405, "is not asked for so"),
    ] {
        let (got, body) = served.ask(method, path, b"").await;
        assert_eq!(got, status, "{path}: {body}");
        assert!(body.contains(why), "{path}: {body}");
    }
    // Nobody listens at port 1: the pull is begun, and its end is told.
    let (status, body) = served
        .ask("POST", "/v1/images/pull?image=127.0.0.1:1/a:1", b"")
        .await;
    assert_eq!(status, 200);
    let error = last(&body)["Error"].as_str().unwrap().to_owned();
    assert!(error.contains("127.0.0.1:1"), "{error}");
}

#[test]
fn only_root_and_the_agents_own_user_change_images() {
    let own = rustix::process::geteuid().as_raw();
    assert!(may_change(Some(0)) && may_change(Some(own)));
    assert!(!may_change(None));
    assert!(!may_change(Some(own.wrapping_add(1).max(1))));
}

#[tokio::test]
async fn an_image_that_a_task_has_pulled_keeps_its_last_name() {
    let served = with_store();
    let path = rootfs(served.dir.path());
    let load = format!("/v1/images/load?rootfs=true&tag=a:1&path={path}");
    let (_, body) = served.ask("POST", &load, b"").await;
    let digest = last(&body)["Images"][0]["Digest"]
        .as_str()
        .unwrap()
        .to_owned();
    served.post_with(Status::Running, &digest);
    let (status, body) = served.ask("DELETE", "/v1/images?image=a:1", b"").await;
    assert_eq!(status, u16::from(StatusCode::BAD_REQUEST), "{body}");
    assert!(body.contains("uses it; stop it first"), "{body}");
    served
        .ask("POST", "/v1/images/tag?image=a:1&tag=b:1", b"")
        .await;
    let (status, body) = served.ask("DELETE", "/v1/images?image=a:1", b"").await;
    assert_eq!(status, 200, "{body}");
    // By its digest it would go with its layers, and its name is the last.
    let by_digest = format!("/v1/images?image={digest}&force=true");
    let (status, body) = served.ask("DELETE", &by_digest, b"").await;
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("uses it; stop it first"), "{body}");
    served.post_with(Status::Stopped, &digest);
    let (status, body) = served.ask("DELETE", &by_digest, b"").await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains(r#""Image":true"#), "{body}");
}
