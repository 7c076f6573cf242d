//! Task-level `cpu` and `memory`, which ECS takes as text in several forms and answers as plain numbers.

/// CPU units in one vCPU.
const UNITS: f64 = 1024.0;

/// `256`, `.25 vcpu`, `1 vCPU` -> CPU units.
pub(super) fn cpu(text: &str) -> Option<u32> {
    let text = text.trim().to_ascii_lowercase();
    match text.strip_suffix("vcpu") {
        None => text.parse().ok(),
        Some(number) => scaled(number, UNITS).and_then(|n| u32::try_from(n).ok()),
    }
}

/// `512`, `512 MB`, `1 GB`, `.5gb` -> MiB.
pub(super) fn memory(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    if let Some(number) = text.strip_suffix("gb") {
        return scaled(number, 1024.0);
    }
    text.strip_suffix("mb").unwrap_or(&text).trim().parse().ok()
}

/// A decimal number times `unit`, where that is a whole number.
fn scaled(number: &str, unit: f64) -> Option<u64> {
    let number = number.trim();
    let decimal = |b: u8| b.is_ascii_digit() || b == b'.';
    if number.is_empty() || number.len() > 12 || !number.bytes().all(decimal) {
        return None;
    }
    let scaled = number.parse::<f64>().ok()? * unit;
    // Twelve characters stay far below 2^53, where f64 counts exactly.
    (scaled.fract() == 0.0 && scaled < 9e15).then_some(scaled as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecs_forms_become_numbers() {
        for (text, units) in [
            ("256", 256),
            (".25 vcpu", 256),
            ("1 vCPU", 1024),
            ("0.5vcpu", 512),
        ] {
            assert_eq!(cpu(text), Some(units), "{text}");
        }
        for (text, mib) in [
            ("512", 512),
            ("1 GB", 1024),
            (".5gb", 512),
            ("512 MB", 512),
            ("2GB", 2048),
        ] {
            assert_eq!(memory(text), Some(mib), "{text}");
        }
    }

    #[test]
    fn all_else_is_refused() {
        for text in [
            "",
            "x",
            "-1",
            "1e3 vcpu",
            "nan vcpu",
            "inf vcpu",
            "vcpu",
            "1.2.3 vcpu",
            ".3333 vcpu",
        ] {
            assert_eq!(cpu(text), None, "{text}");
        }
        for text in [
            "",
            "GB",
            "-1 GB",
            "1 TB",
            "0.0001 GB",
            "99999999999999999999",
        ] {
            assert_eq!(memory(text), None, "{text}");
        }
    }
}
