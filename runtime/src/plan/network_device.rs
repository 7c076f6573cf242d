//! `linux.netDevices`: which of the host's network devices a container gets, and how each is called there.

use std::fmt;

use oci_spec::runtime::{Linux, LinuxNamespaceType};
use serde::{Deserialize, Serialize};

use crate::StepError;

/// IFNAMSIZ without its NUL.
const NAME_MAX: usize = 15;

/// A device of the host that moves into the container's network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDevice {
    /// Its name on the host.
    pub host: String,
    /// Its name in the container; with `%d`, the kernel puts the first free number there.
    pub name: String,
}

/// The devices, by their names on the host.
pub(super) fn of(linux: &Linux) -> Result<Vec<NetworkDevice>, StepError> {
    let wanted = linux.net_devices().iter().flatten();
    let mut devices: Vec<NetworkDevice> = wanted
        .map(|(host, device)| {
            let name = device.name().clone().filter(|name| !name.is_empty());
            NetworkDevice {
                host: host.clone(),
                name: name.unwrap_or_else(|| host.clone()),
            }
        })
        .collect();
    devices.sort_by(|one, other| one.host.cmp(&other.host));
    for (index, device) in devices.iter().enumerate() {
        check(&device.host, false)?;
        check(&device.name, true)?;
        if devices[..index]
            .iter()
            .any(|other| other.name == device.name && !device.name.contains('%'))
        {
            return Err(refused(
                &device.name,
                "two devices would have this name in the container",
            ));
        }
    }
    let namespaces = linux.namespaces().iter().flatten();
    let own = namespaces
        .into_iter()
        .any(|one| one.typ() == LinuxNamespaceType::Network);
    match devices.first().filter(|_| !own) {
        Some(device) => Err(refused(
            &device.host,
            "the container shares the host's network namespace; give it one of its own",
        )),
        None => Ok(devices),
    }
}

/// dev_valid_name() of the kernel, and its rule for the one `%d` that it fills in.
fn check(name: &str, pattern: bool) -> Result<(), StepError> {
    let bad = |letter: char| {
        letter == '/' || letter == ':' || letter.is_whitespace() || letter.is_control()
    };
    let sound = !name.is_empty()
        && name.len() <= NAME_MAX
        && !matches!(name, "." | "..")
        && !name.contains(bad);
    let filled = if pattern {
        name.replacen("%d", "", 1)
    } else {
        name.to_owned()
    };
    if sound && !filled.contains('%') {
        return Ok(());
    }
    Err(refused(
        name,
        "a device's name is 1 to 15 bytes without space, `/` or `:`; `%d` may stand once, in the container's name",
    ))
}

fn refused(subject: &str, cause: &str) -> StepError {
    StepError::refused("plan network device", format!("{subject:?}"), cause)
}

impl fmt::Display for NetworkDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "network device {} as {}", self.host, self.name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn planned(devices: Value, namespaces: Value) -> Result<String, StepError> {
        let linux = json!({"netDevices": devices, "namespaces": namespaces});
        let devices = of(&serde_json::from_value(linux).unwrap())?;
        Ok(devices
            .iter()
            .map(NetworkDevice::to_string)
            .collect::<Vec<_>>()
            .join("; "))
    }

    #[test]
    fn devices_keep_their_names_unless_told() {
        let own = json!([{"type": "network"}]);
        assert_eq!(
            planned(
                json!({"eth1": {"name": "c%d"}, "eth0": {}, "eth2": {"name": ""}}),
                own
            )
            .unwrap(),
            "network device eth0 as eth0; network device eth1 as c%d; network device eth2 as eth2"
        );
    }

    #[test]
    fn names_that_the_kernel_would_refuse_and_shared_namespaces() {
        let own = json!([{"type": "network"}]);
        for name in [
            "a/b",
            "a b",
            "..",
            "0123456789abcdef",
            "%d%d",
            "%s",
            "a:1",
            "a\n",
        ] {
            assert!(
                planned(json!({"eth0": {"name": name}}), own.clone()).is_err(),
                "{name}"
            );
        }
        assert!(planned(json!({"eth%d": {}}), own.clone()).is_err());
        let twice = json!({"eth0": {"name": "x"}, "eth1": {"name": "x"}});
        assert!(
            planned(twice, own)
                .unwrap_err()
                .cause
                .contains("two devices")
        );
        assert!(
            planned(json!({"eth0": {}}), json!([]))
                .unwrap_err()
                .cause
                .contains("shares")
        );
    }
}
