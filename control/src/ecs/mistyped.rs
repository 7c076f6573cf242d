//! What is said of a member that cannot be read: where it is, what was given, what it may be.
//!
//! The reader's own words are those of its types (`expected u16`); a caller knows ECS's.

use serde_json::Value;
use serde_path_to_error::{Path, Segment};

/// The longest text that is quoted.
const LONGEST_QUOTE: usize = 80;

/// The part of a sentence after the member's path, for `cause`, the reader's own words.
pub(super) fn sentence(body: &Value, path: &Path, cause: &str) -> String {
    let expected = match cause.rsplit_once("expected ") {
        Some((_, expected)) => words(expected),
        None => return cause.to_owned(),
    };
    match find(body, path) {
        Some(found) => format!("{} was given; {expected} is expected.", given(path, found)),
        None => format!("{expected} is expected."),
    }
}

/// The member itself, or the nearest around it that was given.
fn find<'a>(body: &'a Value, path: &Path) -> Option<&'a Value> {
    path.iter().try_fold(body, |value, segment| match segment {
        Segment::Map { key } => value.get(key),
        Segment::Seq { index } => value.get(index),
        // What is written for a variant is the value itself.
        Segment::Enum { .. } | Segment::Unknown => Some(value),
    })
}

/// Values of variables may be secrets: of those only the kind is told.
fn given(path: &Path, found: &Value) -> String {
    let last = path.iter().next_back();
    let is_private = matches!(last, Some(Segment::Map { key }) if key == "value");
    match found {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(_) if is_private => "a string".to_owned(),
        Value::Number(_) if is_private => "a number".to_owned(),
        Value::String(text) => {
            let cut: String = text.chars().take(LONGEST_QUOTE).collect();
            let more = if cut.len() < text.len() { "..." } else { "" };
            format!("'{}'{more}", cut.escape_debug())
        }
        other => other.to_string(),
    }
}

/// The reader's name of what it wants, in words that a caller knows.
fn words(expected: &str) -> String {
    let integer = |least: &dyn ToString, most: &dyn ToString| {
        format!(
            "an integer between {} and {}",
            least.to_string(),
            most.to_string()
        )
    };
    match expected {
        "u8" => integer(&u8::MIN, &u8::MAX),
        "u16" => integer(&u16::MIN, &u16::MAX),
        "u32" => integer(&u32::MIN, &u32::MAX),
        "u64" => integer(&u64::MIN, &u64::MAX),
        "i32" => integer(&i32::MIN, &i32::MAX),
        "i64" => integer(&i64::MIN, &i64::MAX),
        "f64" => "a number".to_owned(),
        "a string" => "a string".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        other if other.starts_with("a map") || other.starts_with("struct ") => {
            "an object".to_owned()
        }
        // `one of `a`, `b``, or one word alone.
        other => other.replace('`', "'"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::read;
    use crate::definition::Document;
    use serde_json::{Value, json};

    #[track_caller]
    fn refused(container: Value) -> String {
        let body = json!({"containerDefinitions": [container]});
        read::<Document>(&body).unwrap_err().to_string()
    }

    #[test]
    fn a_caller_reads_the_member_what_was_given_and_what_it_may_be() {
        let port = |port: Value| refused(json!({"portMappings": [{"containerPort": port}]}));
        assert_eq!(
            port(json!(70_000)),
            "ClientException: Invalid value at 'containerDefinitions[0].portMappings[0].containerPort': 70000 was given; \
             an integer between 0 and 65535 is expected."
        );
        assert_eq!(
            port(json!("http")),
            "SerializationException: Invalid value at 'containerDefinitions[0].portMappings[0].containerPort': 'http' was \
             given; an integer between 0 and 65535 is expected."
        );
        for (wrong, end) in [
            (
                json!({"memory": 1.5}),
                "1.5 was given; an integer between 0 and 18446744073709551615 is expected.",
            ),
            (
                json!({"command": "ls"}),
                "'ls' was given; a list is expected.",
            ),
            (
                json!({"image": ["a"]}),
                "a list was given; a string is expected.",
            ),
            (
                json!({"essential": 1}),
                "1 was given; true or false is expected.",
            ),
            (
                json!({"portMappings": [{"protocol": "sctp"}]}),
                "'sctp' was given; 'tcp' or 'udp' is expected.",
            ),
            (
                json!({"portMappings": [7]}),
                "7 was given; an object is expected.",
            ),
        ] {
            let said = refused(wrong.clone());
            assert!(said.ends_with(end), "{wrong}: {said}");
        }
    }

    #[test]
    fn no_value_of_a_variable_is_quoted_and_no_text_is_long() {
        let said = refused(json!({"environment": [{"name": "PIN", "value": 271828}]}));
        assert!(
            !said.contains("271828") && said.contains("a number was given"),
            "{said}"
        );
        let said = refused(json!({"memory": "x".repeat(10_000)}));
        assert!(said.len() < 300, "{said}");
    }
}
