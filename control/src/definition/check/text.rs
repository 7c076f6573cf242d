//! Text that no container can be given: characters that end a string in the kernel or break a file's
//! lines, users and host names that are none, capabilities that there are not.
//!
//! ECS registers some of these and fails each task; here they are refused while someone is looking.

use serde_json::Value;

use super::container::invalid;
use crate::definition::{ContainerDefinition, Invalid};

/// The kernel's longest host name (`__NEW_UTS_LEN`, sethostname(2)), below RFC 1123's 255.
const LONGEST_HOSTNAME: usize = 64;
/// RFC 1123, section 2.1.
const LONGEST_LABEL: usize = 63;

/// linux/capability.h up to Linux 6.x, without `CAP_`; and Docker's word for all of them.
const CAPABILITIES: [&str; 42] = [
    "ALL",
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// Members that are handed on as they are: any character but NUL.
const VERBATIM: [&str; 6] = [
    "command",
    "dockerLabels.",
    "entryPoint",
    "environment[].value",
    "healthCheck.command",
    "logConfiguration.options.",
];

/// How much of a text is quoted.
const LONGEST_QUOTE: usize = 80;

/// ECS's sentence about a text with a character that is not `allowed` (or that is too long), and then which and what to do.
pub(super) fn characters(
    member: &str,
    text: &str,
    allowed: impl Fn(char) -> bool,
    remedy: &str,
) -> Invalid {
    match text.chars().find(|c| !allowed(*c)) {
        Some(bad) => {
            let cut: String = text.chars().take(LONGEST_QUOTE).collect();
            let more = if cut.len() < text.len() { "..." } else { "" };
            Invalid(format!(
                "{member} contains invalid characters: '{}'{more} has '{}'. {remedy}",
                cut.escape_debug(),
                bad.escape_debug()
            ))
        }
        None => Invalid(format!(
            "{member} is too long: it has {} characters. {remedy}",
            text.chars().count()
        )),
    }
}

pub(super) fn check(container: &ContainerDefinition) -> Result<(), Invalid> {
    let members = serde_json::to_value(container).unwrap_or_default();
    check_characters(container, "", &members)?;
    if container.user.as_deref() == Some("") {
        return Err(invalid(
            container,
            "'user' is empty: name a user, or leave it out for the image's own.",
        ));
    }
    if container
        .hostname
        .as_deref()
        .is_some_and(|h| !is_hostname(h))
    {
        return Err(invalid(
            container,
            format!(
                "'hostname' must be labels of 1 to {LONGEST_LABEL} letters, digits and inner hyphens, joined by dots, \
                 at most {LONGEST_HOSTNAME} characters in all."
            ),
        ));
    }
    let linux = container.linux_parameters.as_ref();
    let Some(capabilities) = linux.and_then(|l| l.capabilities.as_ref()) else {
        return Ok(());
    };
    check_capabilities(container, "add", &capabilities.add)?;
    check_capabilities(container, "drop", &capabilities.drop)
}

/// `member` is the path of `value`, with `[]` for any element of a list.
fn check_characters(
    container: &ContainerDefinition,
    member: &str,
    value: &Value,
) -> Result<(), Invalid> {
    match value {
        Value::String(text) => check_text(container, member, text),
        Value::Array(list) => {
            let member = format!("{member}[]");
            let mut list = list.iter();
            list.try_for_each(|value| check_characters(container, &member, value))
        }
        Value::Object(members) => members.iter().try_for_each(|(name, value)| {
            check_text(container, member, name)?;
            let dot = if member.is_empty() { "" } else { "." };
            check_characters(container, &format!("{member}{dot}{name}"), value)
        }),
        _ => Ok(()),
    }
}

fn check_text(container: &ContainerDefinition, member: &str, text: &str) -> Result<(), Invalid> {
    let verbatim = VERBATIM.iter().any(|start| member.starts_with(start));
    let bad = |c: &char| *c == '\0' || (c.is_control() && !verbatim);
    match text.chars().find(bad) {
        None => Ok(()),
        Some(c) => Err(invalid(
            container,
            format!(
                "'{member}' has the character '{}', which cannot be handed on; leave it out.",
                c.escape_debug()
            ),
        )),
    }
}

fn is_hostname(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let is_label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= LONGEST_HOSTNAME && name.split('.').all(is_label)
}

fn check_capabilities(
    container: &ContainerDefinition,
    list: &str,
    names: &[String],
) -> Result<(), Invalid> {
    let unknown = names.iter().find(|name| !is_capability(name));
    unknown.map_or(Ok(()), |name| {
        Err(invalid(
            container,
            format!(
                "'linuxParameters.capabilities.{list}': '{name}' is not a valid Linux capability. Use ALL or a name of capabilities(7) without CAP_, such as NET_ADMIN."
            ),
        ))
    })
}

/// In any case, with or without `CAP_`: how [`crate::definition::needs`] and the agents read it.
fn is_capability(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    CAPABILITIES.contains(&name.strip_prefix("CAP_").unwrap_or(&name))
}
