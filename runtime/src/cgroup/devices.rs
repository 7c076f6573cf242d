//! The device list of `linux.resources.devices`: its rules, and their form for v1's `devices` controller.
//!
//! The rules are read in order and the last one that matches wins; what none matches is denied, also when
//! the list does not begin with "deny all". An empty list changes nothing. v2's form is `device_program`.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::directory::refused;
use super::limits::STEP;
use crate::StepError;

/// A container's list has about 20 rules; a program of this many is still one the kernel loads.
const MAX_RULES: usize = 512;

/// Access bits, with the values of BPF_DEVCG_ACC_* (linux/bpf.h).
pub(super) const MKNOD: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const WRITE: u8 = 4;
pub(super) const ALL: u8 = MKNOD | READ | WRITE;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Block,
    Char,
}

/// A rule, checked. None stands for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    pub(super) kind: Option<Kind>,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: u8,
}

/// Reads the list.
pub(super) fn rules(list: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, StepError> {
    if list.len() > MAX_RULES {
        let cause = format!("{} rules are more than {MAX_RULES}", list.len());
        return Err(refused(STEP, "linux.resources.devices", cause));
    }
    list.iter()
        .enumerate()
        .map(|(at, given)| rule(at, given))
        .collect()
}

/// Devices that every container may use: all that a terminal and a C library need, and making nodes of any
/// kind, since a node that may not be opened harms nobody. `/dev/console` is not among them: a container's
/// is a pty of its own, and 5:1 would be the host's.
const EVERY_CONTAINER: [(Option<u32>, Option<u32>, u8); 9] = [
    (None, None, MKNOD),
    (Some(1), Some(3), ALL), // null
    (Some(1), Some(5), ALL), // zero
    (Some(1), Some(7), ALL), // full
    (Some(1), Some(8), ALL), // random
    (Some(1), Some(9), ALL), // urandom
    (Some(5), Some(0), ALL), // tty
    (Some(5), Some(2), ALL), // ptmx
    (Some(136), None, ALL),  // pts
];

/// A container's list: the given rules and then those of every container, which therefore hold whatever the
/// given ones say. Without given rules everything else is denied.
pub(super) fn of_container(list: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, StepError> {
    let mut all = rules(list)?;
    all.push(Rule {
        allow: true,
        kind: Some(Kind::Block),
        major: None,
        minor: None,
        access: MKNOD,
    });
    all.extend(EVERY_CONTAINER.map(|(major, minor, access)| Rule {
        allow: true,
        kind: Some(Kind::Char),
        major,
        minor,
        access,
    }));
    Ok(all)
}

fn rule(at: usize, given: &LinuxDeviceCgroup) -> Result<Rule, StepError> {
    let refuse = |cause: String| refused(STEP, subject(at), cause);
    let kind = match given.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(Kind::Block),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(Kind::Char),
        Some(LinuxDeviceType::P) => {
            return Err(refuse(
                "a FIFO is no device that a group could refuse".to_owned(),
            ));
        }
    };
    let number = |value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        // dev_t has 12 bits for the major and 20 for the minor number.
        Some(value) => match u32::try_from(value) {
            Ok(number) if number < 1 << 20 => Ok(Some(number)),
            _ => Err(refuse(format!("{value} is no device number"))),
        },
    };
    Ok(Rule {
        allow: given.allow(),
        kind,
        major: number(given.major())?,
        minor: number(given.minor())?,
        access: access(given.access().as_deref()).map_err(refuse)?,
    })
}

fn subject(at: usize) -> String {
    format!("linux.resources.devices[{at}]")
}

/// Absent means all three.
fn access(text: Option<&str>) -> Result<u8, String> {
    let text = text.filter(|text| !text.is_empty()).unwrap_or("rwm");
    text.chars().try_fold(0, |bits, letter| match letter {
        'r' => Ok(bits | READ),
        'w' => Ok(bits | WRITE),
        'm' => Ok(bits | MKNOD),
        other => Err(format!("access {other:?} is none of r, w and m")),
    })
}

type Key = (Kind, Option<u32>, Option<u32>);

/// A list as v1 can say it: a default, and exceptions from it, in the order in which the rules named them first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    allow: bool,
    exceptions: Exceptions,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Exceptions(Vec<(Key, u8)>);

impl Exceptions {
    fn add(&mut self, key: Key, access: u8) {
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, bits)) => *bits |= access,
            None => self.0.push((key, access)),
        }
    }

    /// 0 if it is none.
    fn of(&self, key: Key) -> u8 {
        let found = self.0.iter().find(|(known, _)| *known == key);
        found.map_or(0, |(_, bits)| *bits)
    }
}

/// Plays the rules in order. v1 cannot cut a hole into a wildcard; a rule that would is refused.
pub(super) fn settle(rules: &[Rule]) -> Result<Settled, StepError> {
    let mut settled = Settled {
        allow: false,
        exceptions: Exceptions::default(),
    };
    for (at, rule) in rules.iter().enumerate() {
        settled
            .play(rule)
            .map_err(|cause| refused(STEP, subject(at), cause))?;
    }
    settled.widen();
    Ok(settled)
}

impl Settled {
    fn play(&mut self, rule: &Rule) -> Result<(), String> {
        let everything = (rule.kind, rule.major, rule.minor) == (None, None, None);
        if everything && rule.access == ALL {
            self.allow = rule.allow;
            self.exceptions.0.clear();
            return Ok(());
        }
        let kinds = rule
            .kind
            .map_or(vec![Kind::Block, Kind::Char], |kind| vec![kind]);
        for kind in kinds {
            let key = (kind, rule.major, rule.minor);
            if rule.allow == self.allow {
                self.clear(key, rule.access)?;
            } else {
                self.exceptions.add(key, rule.access);
            }
        }
        Ok(())
    }

    fn clear(&mut self, key: Key, access: u8) -> Result<(), String> {
        for (other, bits) in &mut self.exceptions.0 {
            if *bits & access == 0 || !overlap(key, *other) {
                continue;
            }
            if !covers(key, *other) {
                return Err(format!(
                    "it takes a part out of an earlier wildcard rule ({}), which cgroup v1 cannot \
                     express: list the devices one by one",
                    spell(*other, *bits)
                ));
            }
            *bits &= !access;
        }
        self.exceptions.0.retain(|(_, bits)| *bits != 0);
        Ok(())
    }

    /// v1 asks that one exception grants all of a request, and open(2) may ask for reading and writing at once; so
    /// a narrow one takes over what the wider ones around it say of these. (mknod(2) asks for itself alone.)
    fn widen(&mut self) {
        const OPEN: u8 = READ | WRITE;
        let before = self.exceptions.clone();
        for (key, bits) in &mut self.exceptions.0 {
            for (other, more) in &before.0 {
                if *bits & OPEN != 0 && covers(*other, *key) {
                    *bits |= more & OPEN;
                }
            }
        }
    }
}

fn overlap(a: Key, b: Key) -> bool {
    let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
    a.0 == b.0 && meet(a.1, b.1) && meet(a.2, b.2)
}

fn covers(a: Key, b: Key) -> bool {
    let within = |a: Option<u32>, b: Option<u32>| a.is_none() || a == b;
    a.0 == b.0 && within(a.1, b.1) && within(a.2, b.2)
}

/// As the control files write it: `c 1:3 rwm`.
fn spell((kind, major, minor): Key, access: u8) -> String {
    let number = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
    let mut text = match kind {
        Kind::Block => "b ",
        Kind::Char => "c ",
    }
    .to_owned();
    text += &format!("{}:{} ", number(major), number(minor));
    for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
        if access & bit != 0 {
            text.push(letter);
        }
    }
    text
}

/// The writes (file, line) that lead from `devices.list` as it is now to the wanted list. What is denied is
/// denied first, so that no hole opens on the way, and what stays allowed is not touched.
pub(super) fn v1_writes(list: &str, wanted: &Settled) -> Vec<(&'static str, String)> {
    let open = list.lines().any(|line| line.trim() == "a *:* rwm");
    let mut writes = Vec::new();
    if wanted.allow {
        if !open {
            writes.push(("devices.allow", "a".to_owned()));
        }
        let denied = wanted.exceptions.0.iter();
        writes.extend(denied.map(|(key, bits)| ("devices.deny", spell(*key, *bits))));
        return writes;
    }
    let now = if open {
        Exceptions::default()
    } else {
        listed(list)
    };
    if open {
        writes.push(("devices.deny", "a".to_owned()));
    }
    for (key, bits) in &now.0 {
        let surplus = bits & !wanted.exceptions.of(*key);
        if surplus != 0 {
            writes.push(("devices.deny", spell(*key, surplus)));
        }
    }
    for (key, bits) in &wanted.exceptions.0 {
        if bits & !now.of(*key) != 0 {
            writes.push(("devices.allow", spell(*key, *bits)));
        }
    }
    writes
}

/// The exceptions that `devices.list` shows.
fn listed(list: &str) -> Exceptions {
    let number = |text: &str| match text {
        "*" => Some(None),
        number => number.parse().ok().map(Some),
    };
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let kind = match words.next()? {
            "b" => Kind::Block,
            "c" => Kind::Char,
            _ => return None,
        };
        let (major, minor) = words.next()?.split_once(':')?;
        let bits = access(words.next()).ok()?;
        Some(((kind, number(major)?, number(minor)?), bits))
    };
    let mut listed = Exceptions::default();
    for (key, bits) in list.lines().filter_map(line) {
        listed.add(key, bits);
    }
    listed
}

/// What the rules say of one request, word for word: the judge of the tests for both versions.
#[cfg(test)]
pub(super) fn judge(rules: &[Rule], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
    [MKNOD, READ, WRITE]
        .into_iter()
        .filter(|bit| access & bit != 0)
        .all(|bit| {
            let fits = |rule: &&Rule| {
                rule.kind.is_none_or(|wanted| wanted == kind)
                    && rule.major.is_none_or(|wanted| wanted == major)
                    && rule.minor.is_none_or(|wanted| wanted == minor)
                    && rule.access & bit != 0
            };
            rules.iter().rev().find(fits).is_some_and(|rule| rule.allow)
        })
}

#[cfg(test)]
pub(super) fn any_rules() -> impl proptest::strategy::Strategy<Value = Vec<Rule>> {
    use proptest::prelude::*;
    let kind = prop_oneof![Just(None), Just(Some(Kind::Block)), Just(Some(Kind::Char))];
    let number = prop_oneof![Just(None), (0u32..3).prop_map(Some)];
    let rule = (any::<bool>(), kind, number.clone(), number, 1u8..8).prop_map(
        |(allow, kind, major, minor, access)| Rule {
            allow,
            kind,
            major,
            minor,
            access,
        },
    );
    proptest::collection::vec(rule, 0..8)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
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
}
