//! What a damaged `state.json` still tells: enough to find the processes and the cgroup of its container.
//!
//! A full disk may cut the file short, and another version of this program may write other fields. Both leave the place
//! of the cgroup, which is written early, as a whole object.

use serde::de::DeserializeOwned;

use crate::cgroup::Location;
use crate::record::Process;

/// Each as far as it can be read.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Remains {
    /// Whose it is.
    pub(crate) id: Option<String>,
    /// The cgroup.
    pub(crate) cgroup: Option<Location>,
    /// The container's first process.
    pub(crate) init: Option<Process>,
}

impl Remains {
    pub(crate) fn of(text: &[u8]) -> Remains {
        let text = String::from_utf8_lossy(text);
        let mut groups = values(&text, "\"cgroup\":");
        // An annotation of the same name may say "disabled", and stands before.
        let last = groups.clone().last();
        Remains {
            // The first that is written, but for a number.
            id: values(&text, "\"id\":").next(),
            cgroup: groups.find(|group| *group != Location::Disabled).or(last),
            init: values(&text, "\"init\":").next(),
        }
    }
}

/// The values behind the key that are of the type.
fn values<'a, T: DeserializeOwned>(
    text: &'a str,
    key: &'a str,
) -> impl Iterator<Item = T> + Clone + use<'a, T> {
    text.match_indices(key).filter_map(move |(at, _)| {
        let rest = &text[at + key.len()..];
        let value = serde_json::Deserializer::from_str(rest).into_iter().next();
        value?.ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_left_of_a_record_is_read() {
        let whole = r#"{"version":9,"id":"c","annotations":{"cgroup":"x","init":"\"init\":7"},
            "cgroup":{"path":{"path":"a/b","optional":false}},"init":{"pid":7,"started":8}}"#;
        let (path, optional) = ("a/b".to_owned(), false);
        let cgroup = Some(Location::Path { path, optional });
        let init = Some(Process { pid: 7, started: 8 });
        let cut = &whole[..whole.len() - 3];
        let all = Remains::of(whole.as_bytes());
        assert_eq!((&all.cgroup, all.init), (&cgroup, init));
        let (id, init) = (Some("c".to_owned()), None);
        assert_eq!(Remains::of(cut.as_bytes()), Remains { id, cgroup, init });
        assert_eq!(Remains::of(b""), Remains::default());
        let disabled = Remains::of(br#"{"annotations":{"cgroup":"disabled"},"cgroup":"disabled"}"#);
        assert_eq!(disabled.cgroup, Some(Location::Disabled));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(Remains::of(&text));
        }
    }
}
