//! The harness itself: if these fail, no other failure means anything.

use std::process::Command;

use longshore_tests::{Image, Layer, Street};

#[test]
#[ignore = "needs root"]
fn a_street_has_a_network_of_its_own_and_an_empty_run() {
    let street = Street::open();
    let census = street.census();
    assert_eq!(census.matching("link "), ["link lo"]);
    assert_eq!(census.matching("file "), ["file /run"]);
    assert_eq!(census.matching("nft "), Vec::<&str>::new());
    census.assert_same(&street.census());
}

#[test]
#[ignore = "needs root"]
fn the_census_sees_a_mount_a_cgroup_and_a_process() {
    let street = Street::open();
    let before = street.census();
    let group =
        std::path::Path::new("/sys/fs/cgroup/pids").join(format!("longshore-{}", street.instance));
    let group = if group.parent().is_some_and(|root| root.exists()) {
        group
    } else {
        std::path::Path::new("/sys/fs/cgroup").join(group.file_name().expect("a name"))
    };
    std::fs::create_dir(&group).expect("make a cgroup");
    let mut child = Command::new("sleep")
        .arg("1000")
        .spawn()
        .expect("start sleep");
    std::fs::write(group.join("cgroup.procs"), child.id().to_string()).expect("move it there");
    let now = street.census();
    assert_eq!(now.matching("process ").len(), 1, "{now:?}");
    assert_ne!(now, before);
    child.kill().expect("end sleep");
    child.wait().expect("reap sleep");
    std::fs::remove_dir(&group).expect("remove the cgroup");
    street.census().assert_same(&before);
}

#[test]
#[ignore = "needs root"]
fn real_and_odd_images_reach_the_registry() {
    let street = Street::open();
    let web = street.registry_image("web:1");
    let odd = Image::busybox().layer(Layer::new().file("../out", 0o644, b"x"));
    let odd = street.registry().push("odd:1", &odd);
    for reference in [web, odd] {
        let reference = format!("docker://{reference}");
        let seen = Command::new("skopeo")
            .args(["inspect", "--tls-verify=false", &reference])
            .output();
        let seen = seen.expect("start skopeo");
        assert!(
            seen.status.success(),
            "{}",
            String::from_utf8_lossy(&seen.stderr)
        );
    }
}
