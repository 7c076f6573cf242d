//! Bounds on what an agent says. Text that is only for people is cut; anything else that is out of bounds is
//! an error that names the field.

/// `reason` and the like: ECS's own bound.
pub(super) const REASON: usize = 1024;
/// Names, ids, digests, versions.
pub(super) const NAME: usize = 255;
/// Attributes of an instance.
pub(super) const ATTRIBUTES: usize = 256;
/// Ports in a list.
pub(super) const PORTS: usize = 4096;
/// Containers of a task.
pub(super) const CONTAINERS: usize = 128;
/// Tasks that a host may hold.
pub(super) const TASKS: usize = 4096;

/// The text, cut to `bytes` at a character's border, without control characters.
pub(super) fn cut(text: &str, bytes: usize) -> String {
    let end = (0..=bytes.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(0);
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text[..end].chars().map(plain).collect()
}

/// An error if there are more than `most`.
pub(super) fn count(field: &str, count: usize, most: usize) -> Result<(), String> {
    if count > most {
        return Err(format!("{field}: {count} entries, at most {most}"));
    }
    Ok(())
}

/// An error unless the text is 1 to [`NAME`] bytes without control characters.
pub(super) fn name(field: &str, text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > NAME || text.chars().any(char::is_control) {
        return Err(format!("{field}: not 1 to {NAME} bytes of plain text"));
    }
    Ok(())
}

/// A port, not 0.
pub(super) fn port(field: &str, port: u32) -> Result<u16, String> {
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{field}: {port} is no port")),
    }
}

/// A list of ports.
pub(super) fn ports(field: &str, list: &[u32]) -> Result<Vec<u16>, String> {
    count(field, list.len(), PORTS)?;
    list.iter().map(|one| port(field, *one)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters_and_loses_its_control_characters() {
        assert_eq!(cut("aé\n", 2), "a");
        assert_eq!(cut("aé\n", 9), "aé ");
        assert_eq!(cut("", 0), "");
    }

    #[test]
    fn a_port_is_1_to_65535() {
        assert!(port("p", 0).is_err());
        assert_eq!(port("p", 65535), Ok(65535));
        assert!(ports("p", &[1, 70000]).is_err());
    }
}
