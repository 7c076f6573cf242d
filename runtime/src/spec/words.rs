//! What the JSON parser says, in the words of who wrote the text: it names types of this program, which tell
//! nobody outside of it anything.

/// Said of a type that is known here only.
const EXPECTED: [&str; 6] = ["struct", "enum", "variant", "tuple", "unit", "internally"];

/// The parser's `said`, of `text`.
pub(super) fn plain(text: &[u8], said: &str) -> String {
    if text.iter().all(u8::is_ascii_whitespace) {
        return "it is empty; write a JSON object into it".into();
    }
    if said.starts_with("EOF while parsing") {
        let at = said.find(" at line").map_or("", |at| &said[at..]);
        return format!("the text ends{at}, before the JSON object does; complete it");
    }
    if let Some(field) = said.strip_prefix("missing field ") {
        return format!("missing field {field}; write it");
    }
    let said = said
        .replace("invalid type: map", "invalid type: object")
        .replace("invalid type: sequence", "invalid type: array")
        .replace("invalid type: unit value", "invalid type: null");
    let Some((before, expected)) = said.split_once(", expected ") else {
        return said;
    };
    format!("{before}, expected {}", thing(expected))
}

/// `struct Spec at line 1 column 4` is `an object at line 1 column 4`.
fn thing(expected: &str) -> String {
    let (thing, place) = expected.split_at(expected.find(" at line").unwrap_or(expected.len()));
    let first = thing.split(' ').next().unwrap_or_default();
    let plain = match first {
        "struct" => "an object",
        "enum" => "one of its names, a string",
        _ if thing == "a map" => "an object",
        _ if thing == "a sequence" => "an array",
        _ if EXPECTED.contains(&first) => "another value",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative",
        "f32" | "f64" => "a number",
        "path" => "a path, a string",
        _ => thing,
    };
    format!("{plain}{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_inner_word_gets_out() {
        for (said, words) in [
            (
                "invalid type: null, expected struct Spec at line 1 column 4",
                "invalid type: null, expected an object at line 1 column 4",
            ),
            (
                "invalid type: map, expected a sequence",
                "invalid type: object, expected an array",
            ),
            (
                "invalid type: string \"5\", expected u32 at line 2 column 3",
                "invalid type: string \"5\", expected a whole number that is not negative at line 2 column 3",
            ),
            (
                "EOF while parsing an object at line 3 column 9",
                "the text ends at line 3 column 9, before the JSON object does; complete it",
            ),
            ("missing field `cwd`", "missing field `cwd`; write it"),
            (
                "expected value at line 1 column 1",
                "expected value at line 1 column 1",
            ),
            (
                "unknown variant `x`, expected `a` or `b`",
                "unknown variant `x`, expected `a` or `b`",
            ),
        ] {
            assert_eq!(plain(b"{", said), words);
        }
        assert!(plain(b" \n", "EOF while parsing a value").starts_with("it is empty"));
    }
}
