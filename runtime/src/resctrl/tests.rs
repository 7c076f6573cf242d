//! The rules of the OCI text, in a directory that looks like a resctrl file system.

use super::*;

/// The kernel makes a group's files with it; here the class is prepared.
fn prepare(root: &Path, class: &str, schemata: &str) {
    let class = root.join(class);
    std::fs::create_dir_all(class.join("mon_groups")).unwrap();
    std::fs::write(class.join("schemata"), schemata).unwrap();
    std::fs::write(class.join("tasks"), "").unwrap();
}

fn wanted(class: Option<&str>) -> Resctrl {
    Resctrl {
        class: class.map(str::to_owned),
        fixed: Vec::new(),
        schemata: Vec::new(),
        monitoring: false,
    }
}

fn read(root: &Path, name: &str) -> String {
    std::fs::read_to_string(root.join(name)).unwrap_or_default()
}

#[test]
fn a_class_of_its_own_is_made_written_entered_and_removed() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let own = Resctrl {
        fixed: vec!["L3:0=f".into(), "MB:0=50".into()],
        schemata: vec!["L2:0=1".into()],
        ..wanted(None)
    };
    enter_below(root, &own, "c1", 7).unwrap();
    assert_eq!(read(root, "c1/schemata"), "L3:0=f\nMB:0=50\nL2:0=1\n");
    assert_eq!(read(root, "c1/tasks"), "7");
    for file in ["schemata", "tasks"] {
        std::fs::remove_file(root.join("c1").join(file)).unwrap();
    }
    remove_below(root, &own, "c1").unwrap();
    assert!(!root.join("c1").exists());
    remove_below(root, &own, "c1").unwrap();
}

#[test]
fn a_class_that_exists_must_agree_and_is_never_removed() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    prepare(root, "gold", "    L3:0=f;1=f\n    MB:0=50\n");
    let gold = Resctrl {
        fixed: vec!["MB:0=50".into()],
        ..wanted(Some("gold"))
    };
    enter_below(root, &gold, "c1", 7).unwrap();
    assert_eq!(
        (
            read(root, "gold/tasks").as_str(),
            read(root, "gold/schemata").as_str()
        ),
        ("7", "    L3:0=f;1=f\n    MB:0=50\n")
    );
    let other = Resctrl {
        fixed: vec!["MB:0=40".into()],
        ..wanted(Some("gold"))
    };
    assert!(
        enter_below(root, &other, "c1", 8)
            .unwrap_err()
            .cause
            .contains("MB:0=40")
    );
    assert_eq!(read(root, "gold/tasks"), "7");
    let written = Resctrl {
        schemata: vec!["MB:0=30".into()],
        ..wanted(Some("gold"))
    };
    enter_below(root, &written, "c1", 9).unwrap();
    assert_eq!(read(root, "gold/schemata"), "MB:0=30\n");
    remove_below(root, &gold, "c1").unwrap();
    assert!(root.join("gold").exists());
}

#[test]
fn a_class_that_is_only_named_must_exist() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let error = enter_below(root, &wanted(Some("gold")), "c1", 7).unwrap_err();
    assert!(error.cause.contains("must exist"), "{error}");
    assert!(!root.join("gold").exists());
    prepare(root, "gold", "L3:0=f\n");
    enter_below(root, &wanted(Some("gold")), "c1", 7).unwrap();
    assert_eq!(
        (
            read(root, "gold/tasks").as_str(),
            read(root, "gold/schemata").as_str()
        ),
        ("7", "L3:0=f\n")
    );
    std::fs::write(root.join("tasks"), "").unwrap();
    enter_below(root, &wanted(Some("/")), "c1", 8).unwrap();
    assert_eq!(read(root, "tasks"), "8");
}

#[test]
fn a_monitoring_group_lives_as_long_as_its_container() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    prepare(root, "gold", "L3:0=f\n");
    let monitored = Resctrl {
        monitoring: true,
        ..wanted(Some("gold"))
    };
    enter_below(root, &monitored, "c1", 7).unwrap();
    assert_eq!(read(root, "gold/mon_groups/c1/tasks"), "7");
    std::fs::remove_file(root.join("gold/mon_groups/c1/tasks")).unwrap();
    remove_below(root, &monitored, "c1").unwrap();
    assert!(!root.join("gold/mon_groups/c1").exists() && root.join("gold").exists());
}

#[test]
fn a_host_without_it_is_told() {
    if Path::new(ROOT).join("schemata").exists() {
        return;
    }
    let error = enter(&wanted(None), "c1", 7).unwrap_err();
    assert!(
        error.cause.contains("no resctrl file system is mounted"),
        "{error}"
    );
    remove(&wanted(None), "c1").unwrap();
}

#[test]
fn lines_of_a_class_are_changed_where_there_is_one() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    prepare(root, "gold", "    L3:0=f\n");
    let lines = ["L3:0=3".to_owned(), "MB:0=20".to_owned()];
    update_below(root, Some(&wanted(Some("gold"))), "c1", &lines).unwrap();
    assert_eq!(read(root, "gold/schemata"), "L3:0=3\nMB:0=20\n");
    let refused = update_below(root, None, "c1", &lines).unwrap_err();
    assert!(refused.cause.contains("linux.intelRdt"), "{refused}");
}
