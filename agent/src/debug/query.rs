//! Query strings: `key=value` pairs with percent-encoding (RFC 3986).

use longshore_engine::TaskId;

use super::Refusal;

#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Result<Query, Refusal> {
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            Some((decode(key)?, decode(value)?))
        };
        text.split('&')
            .filter(|part| !part.is_empty())
            .map(|part| {
                pair(part).ok_or_else(|| Refusal::bad(format!("{part:?} is not percent-encoded")))
            })
            .collect::<Result<_, _>>()
            .map(Query)
    }

    /// Refuses parameters other than these: a misspelt one must not be taken for none.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Refusal> {
        let unknown = self
            .0
            .iter()
            .find(|(key, _)| !known.contains(&key.as_str()));
        match unknown {
            Some((key, _)) => Err(Refusal::bad(format!(
                "parameter {key:?} is not known here; known are: {}",
                known.join(", ")
            ))),
            None => Ok(()),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str())
    }

    /// Every value of a parameter that may be said again.
    pub(super) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        let found = self.0.iter().filter(move |(known, _)| known == key);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool, Refusal> {
        match self.get(key) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1" | "") => Ok(true),
            Some(other) => Err(Refusal::bad(format!("{key}={other:?}: use true or false"))),
        }
    }
}

/// The task id of an ARN or of a bare id.
pub(super) fn task_id(text: &str) -> Result<TaskId, Refusal> {
    let id = text.rsplit('/').next().unwrap_or_default();
    TaskId::try_from(id.to_owned()).map_err(|e| Refusal::bad(format!("taskarn: {e}")))
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn encoded_arns_are_read() {
        let query = Query::parse("taskarn=arn%3Aaws%3aecs&x=a+b&&flag").unwrap();
        assert_eq!(query.get("taskarn"), Some("arn:aws:ecs"));
        assert_eq!(query.get("x"), Some("a b"));
        assert!(query.flag("flag").unwrap());
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff"] {
            assert!(Query::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_query_panics(text in ".{0,100}") {
            drop(Query::parse(&text));
        }
    }
}
