//! Lists in both forms, judged by one reading of the rules.

use std::collections::BTreeMap;

use super::super::{any_rules, judge, of_container, rules};
use super::*;
use oci_spec::runtime::LinuxDeviceCgroup;
use proptest::prelude::*;

fn parse(json: &str) -> Result<Vec<Rule>, StepError> {
    rules(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap())
}

const USUAL: &str = r#"[{"allow":false,"access":"rwm"},
        {"allow":true,"type":"c","access":"m"},{"allow":true,"type":"b","access":"m"},
        {"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},
        {"allow":true,"type":"c","major":136,"access":"rwm"}]"#;

fn usual() -> Settled {
    settle(&parse(USUAL).unwrap()).unwrap()
}

#[test]
fn a_new_group_is_closed_first_and_then_opened() {
    let lines = v1_writes("a *:* rwm\n", &usual());
    let lines: Vec<_> = lines
        .iter()
        .map(|(file, line)| format!("{file} {line}"))
        .collect();
    assert_eq!(
        lines,
        [
            "devices.deny a",
            "devices.allow c *:* m",
            "devices.allow b *:* m",
            "devices.allow c 1:3 rwm",
            "devices.allow c 136:* rwm",
        ]
    );
}

#[test]
fn an_update_touches_only_what_changes_and_denies_first() {
    let list = "b *:* m\nc *:* rm\nc 1:3 rwm\nc 10:200 rwm\n";
    assert_eq!(
        v1_writes(list, &usual()),
        [
            ("devices.deny", "c *:* r".to_owned()),
            ("devices.deny", "c 10:200 rwm".to_owned()),
            ("devices.allow", "c 136:* rwm".to_owned()),
        ]
    );
}

#[test]
fn an_open_list_with_exceptions_stays_open_but_for_them() {
    let json = r#"[{"allow":true},{"allow":false,"type":"b","major":8,"access":"w"}]"#;
    let settled = settle(&parse(json).unwrap()).unwrap();
    assert_eq!(
        v1_writes("a *:* rwm\n", &settled),
        [("devices.deny", "b 8:* w".to_owned())]
    );
}

#[test]
fn a_hole_in_a_wildcard_is_refused_on_v1() {
    let json = r#"[{"allow":true,"type":"c"},
            {"allow":false,"type":"c","major":1,"minor":1}]"#;
    let error = settle(&parse(json).unwrap()).unwrap_err();
    assert_eq!(error.subject, "linux.resources.devices[1]");
    assert!(error.cause.contains("c *:* rwm"), "{}", error.cause);
}

#[test]
fn rules_that_mean_nothing_are_refused() {
    for json in [
        r#"[{"allow":true,"type":"p"}]"#,
        r#"[{"allow":true,"type":"c","major":-2}]"#,
        r#"[{"allow":true,"type":"c","major":99999999}]"#,
        r#"[{"allow":true,"access":"rx"}]"#,
    ] {
        assert!(parse(json).is_err(), "{json}");
    }
}

#[test]
fn a_container_has_its_terminal_whatever_its_list_says_and_no_more() {
    for json in [
        "[]",
        r#"[{"allow":false}]"#,
        r#"[{"allow":false,"type":"c","major":1}]"#,
    ] {
        let list: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
        let rules = of_container(&list).unwrap();
        assert!(judge(&rules, Kind::Char, 1, 3, ALL), "{json}");
        assert!(judge(&rules, Kind::Char, 136, 7, READ | WRITE), "{json}");
        assert!(judge(&rules, Kind::Block, 8, 0, MKNOD), "{json}");
        assert!(!judge(&rules, Kind::Block, 8, 0, READ), "{json}");
        assert!(!judge(&rules, Kind::Char, 5, 1, READ), "{json}");
        assert!(settle(&rules).is_ok(), "{json}");
    }
}

/// What the kernel's v1 controller does with the lines (security/device_cgroup.c).
fn v1_grants(settled: &Settled, kind: Kind, major: u32, minor: u32, access: u8) -> bool {
    let key = (kind, Some(major), Some(minor));
    let mut matching = settled
        .exceptions
        .0
        .iter()
        .filter(|(other, _)| covers(*other, key));
    match settled.allow {
        true => !matching.any(|(_, bits)| bits & access != 0),
        false => matching.any(|(_, bits)| bits & access == access),
    }
}

proptest! {
    #[test]
    fn v1_never_grants_what_the_rules_deny(
        rules in any_rules(), char: bool, major in 0u32..4, minor in 0u32..4, access in 1u8..8,
    ) {
        let kind = if char { Kind::Char } else { Kind::Block };
        if let Ok(settled) = settle(&rules) {
            let granted = v1_grants(&settled, kind, major, minor, access);
            let wanted = judge(&rules, kind, major, minor, access);
            prop_assert!(wanted || !granted);
            // A single kind of access is exact; several at once may be split over crossing wildcards.
            prop_assert!(access.count_ones() > 1 || granted == wanted);
        }
    }

    #[test]
    fn the_writes_lead_to_the_wanted_list(before in any_rules(), after in any_rules()) {
        let (Ok(before), Ok(after)) = (settle(&before), settle(&after)) else { return Ok(()) };
        if before.allow || after.allow {
            return Ok(());
        }
        let list: String = before.exceptions.0.iter().map(|(k, b)| spell(*k, *b) + "\n").collect();
        let mut now: BTreeMap<Key, u8> = before.exceptions.0.into_iter().collect();
        for (file, line) in v1_writes(&list, &after) {
            let (key, bits) = listed(&line).0[0];
            match file {
                "devices.allow" => *now.entry(key).or_default() |= bits,
                _ => *now.entry(key).or_default() &= !bits,
            }
        }
        now.retain(|_, bits| *bits != 0);
        prop_assert_eq!(now, after.exceptions.0.into_iter().collect::<BTreeMap<Key, u8>>());
    }
}
