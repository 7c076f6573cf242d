//! Where in a JSON text something is: the path that leads to a position, for the words of an error.
//!
//! serde_json tells line and column. Types that keep the path while they read would be a second copy of all of
//! their code, for errors alone; an error has time to look at its text once more.

/// Deeper than serde_json reads; beyond it nothing is named.
const DEPTH_MAX: usize = 128;

/// What encloses a position.
enum Frame {
    /// With the latest member's name.
    Object(Option<String>),
    /// With the index of the element.
    Array(usize),
}

/// Line and column, as serde_json counts them.
pub(super) type Position = (usize, usize);

/// The path of the value that stands or ends at a position (`linux.namespaces[2].type`). Empty: the text as a whole.
pub(super) fn place(text: &[u8], position: Position) -> String {
    shown(&enclosing(text, offset(text, position)))
}

/// The text with a member that no type knows at the end of the object that ends at a position. None: none ends there.
pub(super) fn with_one_more_member(text: &[u8], position: Position) -> Option<Vec<u8>> {
    let before = text[..offset(text, position)].strip_suffix(b"}")?;
    Some([before, b",\"\":0", &text[before.len()..]].concat())
}

fn offset(text: &[u8], (line, column): Position) -> usize {
    let before = text.split_inclusive(|byte| *byte == b'\n');
    let start: usize = before.take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    text.len().min(start.saturating_add(column))
}

fn enclosing(text: &[u8], end: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut beyond = 0usize;
    let mut at = 0;
    while at < end {
        let byte = text[at];
        let full = frames.len() == DEPTH_MAX;
        at += 1;
        match (byte, frames.last_mut()) {
            (b'"', top) => {
                let string = at - 1..end_of_string(text, at);
                at = string.end;
                // In an object without a name yet, it is the name.
                if let (0, Some(Frame::Object(name @ None))) = (beyond, top) {
                    *name = serde_json::from_slice(&text[string]).ok();
                }
            }
            (b'{' | b'[', _) if full => beyond += 1,
            (b'{', _) => frames.push(Frame::Object(None)),
            (b'[', _) => frames.push(Frame::Array(0)),
            (b'}' | b']', _) if beyond > 0 => beyond -= 1,
            (b'}' | b']', _) => drop(frames.pop()),
            (b',', Some(Frame::Object(name))) if beyond == 0 => *name = None,
            (b',', Some(Frame::Array(index))) if beyond == 0 => *index += 1,
            _ => {}
        }
    }
    frames
}

/// Behind the closing quote of the string that began before `at`, or the end of the text.
fn end_of_string(text: &[u8], mut at: usize) -> usize {
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

fn shown(frames: &[Frame]) -> String {
    let mut path = String::new();
    for frame in frames {
        match frame {
            Frame::Object(None) => {}
            Frame::Object(Some(name)) if path.is_empty() => path.push_str(name),
            Frame::Object(Some(name)) => {
                path.push('.');
                path.push_str(name);
            }
            Frame::Array(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place_of(text: &str, mark: &str) -> String {
        let at = text.find(mark).unwrap() + mark.len();
        let line = text[..at].matches('\n').count() + 1;
        let column = at - text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        place(text.as_bytes(), (line, column))
    }

    #[test]
    fn a_position_has_a_path() {
        let text = r#"{"a": [1, {"b": "x,\"]}", "c": {"d": [],
            "e": null}}, [[2]]], "f\u0067": true} 7"#;
        for (mark, path) in [
            ("{", ""),
            ("1", "a[0]"),
            ("x,", "a[1].b"),
            ("\"]}\"", "a[1].b"),
            ("[]", "a[1].c.d"),
            ("null", "a[1].c.e"),
            ("null}", "a[1].c"),
            ("null}}", "a[1]"),
            ("[[2", "a[2][0][0]"),
            ("true", "fg"),
            (" 7", ""),
        ] {
            assert_eq!(place_of(text, mark), path, "{mark}");
        }
    }

    #[test]
    fn what_is_too_deep_or_broken_has_the_path_up_to_there() {
        let deep = format!("{{\"a\": {}", "[".repeat(1 << 20));
        let path = place(deep.as_bytes(), (1, deep.len()));
        assert!(path.starts_with("a[0][0]") && path.len() < 1000, "{path}");
        for text in ["", "]", "}}", "{\"a", "{\"a\\", "\"", "[\"\\u00"] {
            for column in 0..9 {
                for position in [(1, column), (usize::MAX, usize::MAX)] {
                    place(text.as_bytes(), position);
                    drop(with_one_more_member(text.as_bytes(), position));
                }
            }
        }
    }
}
