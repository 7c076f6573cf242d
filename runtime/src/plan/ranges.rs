//! Lists of numbers as the OCI text and the kernel write them: `0-3,7`.

use crate::StepError;

/// The kernel's own bound for CPUs and for memory nodes is no higher on any machine that it supports by default.
pub(super) const NUMBER_MAX: u32 = 1023;

/// Every number of the list, ascending, each once. `what` names the field, for messages.
pub(super) fn parse(what: &str, list: &str) -> Result<Vec<u32>, StepError> {
    let refused = |cause: &str| {
        let cause = format!("{cause}; it must read like `0-3,7`, with numbers up to {NUMBER_MAX}");
        StepError::refused("plan", format!("{what} {list:?}"), cause)
    };
    let mut numbers = Vec::new();
    for part in list.trim().split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = number(first)
            .zip(number(last))
            .ok_or_else(|| refused(&format!("`{part}` is no number and no range")))?;
        if first > last {
            return Err(refused(&format!("`{part}` runs backwards")));
        }
        numbers.extend(first..=last);
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| text.parse().ok())
        .flatten()
        .filter(|number| *number <= NUMBER_MAX)
}

/// The list as it would be written.
pub(super) fn text(numbers: &[u32]) -> String {
    let runs = numbers.chunk_by(|one, next| one + 1 == *next);
    let texts: Vec<String> = runs
        .map(|run| match run {
            [only] => only.to_string(),
            [first, .., last] => format!("{first}-{last}"),
            [] => String::new(),
        })
        .collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_are_read_and_written() {
        assert_eq!(parse("x", "0-3,7").unwrap(), [0, 1, 2, 3, 7]);
        assert_eq!(parse("x", " 5, 1-2,5\n").unwrap(), [1, 2, 5]);
        assert_eq!(text(&[0, 1, 2, 3, 7, 9, 10]), "0-3,7,9-10");
        for bad in [
            "",
            ",",
            "1,",
            "a",
            "1-",
            "-1",
            "3-1",
            "1--2",
            "1024",
            "0-4294967295",
            "+1",
            "0x1",
        ] {
            assert!(parse("x", bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(mut numbers in proptest::collection::vec(0..=NUMBER_MAX, 1..40)) {
            numbers.sort_unstable();
            numbers.dedup();
            prop_assert_eq!(parse("x", &text(&numbers)).unwrap(), numbers);
        }
    }
}
