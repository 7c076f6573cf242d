//! The list as v1's `devices` controller can say it: a default and exceptions from it, and the writes that lead there.

use super::super::directory::refused;
use super::super::limits::STEP;
use super::{ALL, Kind, MKNOD, READ, Rule, WRITE, access, subject};
use crate::StepError;

type Key = (Kind, Option<u32>, Option<u32>);

/// A list as v1 can say it: a default, and exceptions from it, in the order in which the rules named them first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cgroup) struct Settled {
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
pub(in crate::cgroup) fn settle(rules: &[Rule]) -> Result<Settled, StepError> {
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
pub(in crate::cgroup) fn v1_writes(list: &str, wanted: &Settled) -> Vec<(&'static str, String)> {
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

#[cfg(test)]
mod tests;
