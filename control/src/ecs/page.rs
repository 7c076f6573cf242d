//! Pages of lists. A `nextToken` is the last key of the page before, wrapped: a forged one names another
//! place in the same list, or is refused.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Error;

/// ECS's largest page, and the default.
const MOST: i64 = 100;

/// Longest token that is looked at; keys are names of at most 255 characters, two at most.
const LONGEST_TOKEN: usize = 1024;

/// `maxResults` and `nextToken` of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Paging {
    max_results: Option<i64>,
    next_token: Option<String>,
}

/// Collects one page, then answers it.
#[derive(Debug)]
pub(super) struct Page {
    most: usize,
    items: Vec<String>,
    last_key: Option<String>,
    more: bool,
}

impl Paging {
    pub(super) fn page(&self) -> Result<Page, Error> {
        let most = self.max_results.unwrap_or(MOST);
        if !(1..=MOST).contains(&most) {
            return Err(Error::parameter(format!(
                "maxResults must be between 1 and {MOST}."
            )));
        }
        Ok(Page {
            most: usize::try_from(most).unwrap_or(1),
            items: Vec::new(),
            last_key: None,
            more: false,
        })
    }

    /// The key to go on behind: one under `prefix`.
    pub(super) fn after(&self, prefix: &str) -> Result<Option<String>, Error> {
        let Some(token) = self.next_token.as_deref().filter(|token| !token.is_empty()) else {
            return Ok(None);
        };
        let bytes = match token.len() {
            0..=LONGEST_TOKEN => URL_SAFE_NO_PAD.decode(token).ok(),
            _ => None,
        };
        let key = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        match key.filter(|key| key.starts_with(prefix)) {
            Some(key) => Ok(Some(key)),
            None => Err(Error::parameter("Invalid token.")),
        }
    }
}

impl Page {
    /// Adds an item; false: the page was full before, and there is a next one.
    #[must_use]
    pub(super) fn push(&mut self, key: String, item: String) -> bool {
        if self.items.len() == self.most {
            self.more = true;
            return false;
        }
        self.items.push(item);
        self.last_key = Some(key);
        true
    }

    /// The answer, its list under `name`.
    pub(super) fn answer(self, name: &str) -> Value {
        let mut answer = Map::new();
        answer.insert(name.to_owned(), json!(self.items));
        if let Some(key) = self.last_key.filter(|_| self.more) {
            answer.insert("nextToken".to_owned(), json!(URL_SAFE_NO_PAD.encode(key)));
        }
        Value::Object(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn paging(token: &str) -> Paging {
        Paging {
            max_results: None,
            next_token: Some(token.to_owned()),
        }
    }

    #[test]
    fn a_token_comes_back_as_the_key_it_was_made_of() {
        let mut page = Paging::default().page().unwrap();
        page.most = 1;
        assert!(page.push("t/a".into(), "A".into()));
        assert!(!page.push("t/b".into(), "B".into()));
        let answer = page.answer("items");
        assert_eq!(answer["items"], json!(["A"]));
        let token = answer["nextToken"].as_str().unwrap();
        assert_eq!(paging(token).after("t/").unwrap(), Some("t/a".into()));
        assert!(paging(token).after("other/").is_err());
    }

    #[test]
    fn the_last_page_has_no_token() {
        let mut page = Paging::default().page().unwrap();
        assert!(page.push("t/a".into(), "A".into()));
        assert_eq!(page.answer("items"), json!({"items": ["A"]}));
    }

    proptest! {
        #[test]
        fn a_forged_token_never_leaves_its_list(token in "\\PC{0,60}") {
            if let Ok(Some(key)) = paging(&token).after("task/default/") {
                prop_assert!(key.starts_with("task/default/"));
            }
        }
    }
}
