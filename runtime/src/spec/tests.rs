//! What a bundle may hold, and what it may not.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn spec() -> Value {
    json!({
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "cwd": "/",
            "capabilities": {"bounding": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]},
        },
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
    })
}

fn bundle(text: &[u8]) -> (tempfile::TempDir, Result<Config, StepError>) {
    let bundle = tempfile::tempdir().unwrap();
    std::fs::write(bundle.path().join(CONFIG), text).unwrap();
    let read = read_config(&bundle.path().join(CONFIG));
    (bundle, read)
}

fn read(change: impl FnOnce(&mut Value)) -> Result<Config, StepError> {
    let mut spec = spec();
    change(&mut spec);
    bundle(spec.to_string().as_bytes()).1
}

fn refusal(change: impl FnOnce(&mut Value)) -> String {
    read(change).unwrap_err().to_string()
}

#[test]
fn what_is_unknown_is_left_alone() {
    let config = read(|spec| {
        spec["unknown"] = json!({"deeply": [1, {"nested": null}]});
        spec["linux"]["alsoUnknown"] = json!(true);
        spec["annotations"] = json!({"org.example": ""});
    })
    .unwrap();
    assert!(config.warnings.is_empty());
    assert_eq!(config.spec.version(), "1.3.0");
}

#[test]
fn a_wrong_type_is_refused_with_its_place() {
    for (place, change) in [
        (
            "process.args[1]: invalid type: integer",
            (|spec| spec["process"]["args"] = json!(["a", 1])) as fn(&mut Value),
        ),
        ("linux.namespaces[1].type", |spec| {
            spec["linux"]["namespaces"][1] = json!({"type": "cosmic"})
        }),
        ("process.user.uid", |spec| {
            spec["process"]["user"]["uid"] = json!(-1)
        }),
        ("mounts", |spec| spec["mounts"] = json!({})),
        ("process: missing field `cwd`", |spec| {
            spec["process"].as_object_mut().unwrap().remove("cwd");
        }),
        ("process.capabilities.bounding", |spec| {
            spec["process"]["capabilities"]["bounding"] = json!([1])
        }),
        // Refused by a type's own code, the one as the last member of its object and the other not.
        ("process.execCPUAffinity.final: ", |spec| {
            spec["process"]["execCPUAffinity"] = json!({"final": "x", "initial": "0"})
        }),
        ("process.execCPUAffinity.final: ", |spec| {
            spec["process"]["execCPUAffinity"] = json!({"final": "x"})
        }),
        ("linux.memoryPolicy: missing field", |spec| {
            spec["linux"]["memoryPolicy"] = json!({"nodes": "0"})
        }),
    ] {
        let text = refusal(change);
        assert!(text.contains(place), "{text} lacks {place}");
        assert!(text.contains("config.json"), "{text}");
    }
}

#[test]
fn an_unknown_capability_is_left_out_with_a_warning() {
    let config = read(|spec| {
        spec["process"]["capabilities"]["bounding"] =
            json!(["CAP_CHOWN", "CAP_TIME_TRAVEL", "CAP_KILL"]);
    })
    .unwrap();
    let capabilities = config.spec.process().as_ref().unwrap().capabilities();
    let bounding = capabilities.as_ref().unwrap().bounding().clone().unwrap();
    assert_eq!(bounding.len(), 2);
    assert!(config.warnings[0].contains("CAP_TIME_TRAVEL"));
    // It excuses nothing else.
    let text = refusal(|spec| {
        spec["process"]["capabilities"]["bounding"] = json!(["CAP_TIME_TRAVEL"]);
        spec["hostname"] = json!(1);
    });
    assert!(text.contains("hostname"), "{text}");
}

#[test]
fn what_the_oci_text_allows_and_the_types_do_not_is_read() {
    let config = read(|spec| {
        spec["process"]["scheduler"] = json!({"policy": "SCHED_FIFO", "priority": 1,
            "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"]});
        spec["process"]["execCPUAffinity"] = json!({"initial": "", "final": "0-1"});
    })
    .unwrap();
    let process = config.spec.process().clone().unwrap();
    let flags = process.scheduler().as_ref().unwrap().flags().clone();
    assert_eq!(flags.unwrap().len(), 2);
    let affinity = process.exec_cpu_affinity().clone().unwrap();
    assert_eq!(
        (
            affinity.initial().as_deref(),
            affinity.cpu_affinity_final().as_deref()
        ),
        (None, Some("0-1"))
    );
}

#[test]
fn what_every_spec_must_have() {
    for (words, change) in [
        (
            "root: the spec must have it",
            (|spec| drop(spec.as_object_mut().unwrap().remove("root"))) as fn(&mut Value),
        ),
        ("root.path", |spec| spec["root"]["path"] = json!("")),
        ("annotations: a key", |spec| {
            spec["annotations"] = json!({"": "x"})
        }),
    ] {
        let text = refusal(change);
        assert!(text.contains(words), "{text} lacks {words}");
    }
}

#[test]
fn what_the_oci_text_does_not_demand_may_be_absent() {
    let config = read(|spec| {
        spec.as_object_mut().unwrap().remove("linux");
        spec["process"].as_object_mut().unwrap().remove("user");
    })
    .unwrap();
    let kept = parse_kept(&config.text, "x").unwrap();
    for spec in [config.spec, kept] {
        // Nothing that its authors would have put there.
        let linux = spec.linux().clone().unwrap();
        assert!(linux.namespaces().is_none() && linux.masked_paths().is_none());
        let process = spec.process().clone().unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
        assert_eq!(process.args().clone().unwrap(), ["true"]);
    }
    // Of another type it is an error still.
    let text = refusal(|spec| spec["process"]["user"] = json!("web"));
    assert!(text.contains("process.user"), "{text}");
    let text = refusal(|spec| spec["linux"] = json!(7));
    assert!(text.contains("linux"), "{text}");
}

#[test]
fn a_process_may_be_absent() {
    assert!(
        read(|spec| drop(spec.as_object_mut().unwrap().remove("process"))).is_ok(),
        "create needs none; start does"
    );
}

#[test]
fn what_is_no_json_object_is_refused_in_words() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let unknown_deep = format!("{{\"linux\": {{\"namespaces\": {deep}}}}}");
    let whole = spec().to_string();
    for (text, words) in [
        ("", "it is empty"),
        ("null", "invalid type: null, expected an object"),
        ("[]", "no JSON object"),
        ("{", "the text ends"),
        ("{}}", "text after"),
        (&whole[..whole.len() / 2], "the text ends"),
        (&deep, "no JSON object"),
        (&unknown_deep, "linux.namespaces"),
    ] {
        let text = bundle(text.as_bytes()).1.unwrap_err().to_string();
        assert!(text.contains(words), "{text} lacks {words}");
    }
}

#[test]
fn depth_is_bounded_also_where_nobody_looks() {
    let deep = format!("{}1{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let mut text = spec().to_string();
    text.insert_str(1, &format!("\"unknown\": {deep},"));
    // Unknown and therefore ignored: what counts is that the stack bears it.
    drop(bundle(text.as_bytes()).1);
    let mut text = spec().to_string();
    text.insert_str(1, &format!("\"hostname\": {deep},"));
    assert!(bundle(text.as_bytes()).1.is_err());
}

#[test]
fn size_is_bounded() {
    let mut text = spec().to_string().into_bytes();
    text.resize(SIZE_MAX as usize, b' ');
    assert!(bundle(&text).1.is_ok());
    text.push(b' ');
    let cause = bundle(&text).1.unwrap_err().cause;
    assert!(cause.contains("more than 16777216 bytes"), "{cause}");
}

#[test]
fn a_bundle_without_a_config_is_named() {
    let bundle = tempfile::tempdir().unwrap();
    let error = read_config(&bundle.path().join(CONFIG))
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("open ") && error.contains("config.json"));
    assert!(error.contains("`longshore-runtime spec"), "{error}");
    std::fs::create_dir(bundle.path().join(CONFIG)).unwrap();
    let error = read_config(&bundle.path().join(CONFIG))
        .unwrap_err()
        .to_string();
    assert!(error.contains("directory"), "{error}");
}

#[test]
fn a_fifo_in_its_place_does_not_hold_the_runtime() {
    let bundle = tempfile::tempdir().unwrap();
    let path = bundle.path().join(CONFIG);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    assert!(read_config(&bundle.path().join(CONFIG)).is_err());
}

#[test]
fn the_objects_of_exec_and_update_are_read_the_same_way() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let process = json!({"cwd": "/", "args": ["id"],
        "capabilities": {"effective": ["CAP_NOTHING", "CAP_KILL"]}});
    std::fs::write(file.path(), process.to_string()).unwrap();
    let (process, warnings) = read_process(file.path()).unwrap();
    assert_eq!(process.args().as_ref().unwrap(), &["id"]);
    assert_eq!(warnings.len(), 1);
    let error = parse_resources(br#"{"pids": {"limit": "many"}}"#, "-").unwrap_err();
    assert!(error.cause.contains("pids.limit"), "{error}");
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(parse::<Spec>(&text, "x"));
    }

    #[test]
    fn a_damaged_spec_does_not_make_the_reader_panic(at in 0usize..400, byte: u8) {
        let mut text = spec().to_string().into_bytes();
        let at = at % text.len();
        text[at] = byte;
        drop(parse::<Spec>(&text, "x"));
    }
}

#[test]
fn a_process_limit_that_is_not_given_is_none_and_zero_is_one() {
    let limit = |pids: Value| {
        let config = read(|spec| spec["linux"]["resources"] = json!({"pids": pids})).unwrap();
        let resources = config.spec.linux().as_ref().unwrap().resources().clone();
        resources.unwrap().pids().map(|pids| pids.limit())
    };
    assert_eq!(limit(json!({})), None);
    assert_eq!(limit(json!({"limit": 0})), Some(0));
    assert_eq!(limit(json!({"limit": 9})), Some(9));
    let update = |text: &str| parse_resources(text.as_bytes(), "x").unwrap();
    assert!(update(r#"{"pids":{}}"#).pids().is_none());
    assert!(update(r#"{"pids":{"limit":0}}"#).pids().is_some());
}
