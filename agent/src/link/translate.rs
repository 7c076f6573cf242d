//! A task from the wire, as a spec of the engine: every bound and rule that the engine takes for granted is
//! checked here, and the overrides are applied. The error names the field; it refuses this task only.

use std::collections::HashSet;
use std::time::Duration;

use longshore_engine::{
    ContainerSpec, NetworkMode, PortMapping, Protocol, TaskId, TaskSpec, Ulimit,
};
use longshore_proto::v1;

/// What [`v1::Definition`]'s `requires` may name.
const KNOWN: &[&str] = &["ephemeralStorage"];
/// ECS allows 10; more would be a mistake on the wire.
const CONTAINERS: usize = 64;
/// Entries of any list of a container.
const ENTRIES: usize = 4096;
/// Bytes of one text.
const TEXT: usize = 128 * 1024;
/// Default and longest time between SIGTERM and SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const LONGEST_STOP_TIMEOUT: u32 = 24 * 3600;
/// GiB; an ext4 below has no larger files.
const LARGEST_DISK: u64 = 16_000;

/// The task's id, if its ARN is one of `cluster`.
pub(super) fn task_id(arn: &str, cluster: &str) -> Result<TaskId, String> {
    let mut parts = arn.split('/');
    let (prefix, of, id) = (parts.next(), parts.next(), parts.next());
    let named = prefix.is_some_and(|p| p.starts_with("arn:") && p.ends_with(":task"));
    if arn.len() > 512 || !named || of != Some(cluster) || parts.next().is_some() {
        return Err(format!("arn: not a task of cluster {cluster:?}"));
    }
    TaskId::try_from(id.unwrap_or_default().to_owned()).map_err(|e| e.to_string())
}

/// The spec of a wished task.
pub(super) fn spec(
    id: TaskId,
    task: &v1::Task,
    definition: &v1::Definition,
) -> Result<TaskSpec, String> {
    let mut required = definition.requires.iter();
    if let Some(unknown) = required.find(|name| !KNOWN.contains(&name.as_str())) {
        let unknown: String = unknown.chars().take(100).collect();
        return Err(format!("this agent does not know {unknown:?}: upgrade it"));
    }
    plain("family", &definition.family, 255)?;
    let mut containers = definition.containers.clone();
    for over in &task.overrides {
        let name = &over.name;
        let mut named = containers.iter_mut().filter(|c| c.name == *name);
        let container = named.next().ok_or_else(|| {
            format!(
                "overrides: the definition has no container {:?}",
                short(name)
            )
        })?;
        apply(container, over);
    }
    if containers.is_empty() || containers.len() > CONTAINERS {
        return Err(format!("containers: not 1 to {CONTAINERS}"));
    }
    let containers: Vec<ContainerSpec> = containers
        .into_iter()
        .map(container)
        .collect::<Result<_, _>>()?;
    let names: HashSet<&str> = containers.iter().map(|c| c.name.as_str()).collect();
    if names.len() < containers.len() {
        return Err("containers: two have the same name".into());
    }
    if !containers.iter().any(|c| c.essential) {
        return Err("containers: none is essential".into());
    }
    if !(1..=LARGEST_DISK).contains(&definition.ephemeral_storage.unwrap_or(1)) {
        return Err(format!("ephemeralStorage: not 1 to {LARGEST_DISK} GiB"));
    }
    Ok(TaskSpec {
        id,
        arn: task.arn.clone(),
        family: definition.family.clone(),
        revision: definition.revision,
        cpu: task.cpu.or(definition.cpu),
        memory: task.memory.or(definition.memory),
        ephemeral_storage: definition.ephemeral_storage,
        network: network(definition.network_mode())?,
        containers,
    })
}

fn network(mode: v1::NetworkMode) -> Result<NetworkMode, String> {
    match mode {
        v1::NetworkMode::None => Ok(NetworkMode::None),
        v1::NetworkMode::Host => Ok(NetworkMode::Host),
        v1::NetworkMode::Bridge => Ok(NetworkMode::Bridge),
        v1::NetworkMode::Awsvpc => Err(
            "networkMode awsvpc is not supported by this agent yet: use bridge, host or none"
                .into(),
        ),
        v1::NetworkMode::Unspecified => Err("networkMode: unknown to this agent".into()),
    }
}

fn apply(container: &mut v1::Container, over: &v1::ContainerOverride) {
    if let Some(command) = &over.command {
        container.command.clone_from(&command.words);
    }
    for variable in &over.environment {
        container.environment.retain(|v| v.name != variable.name);
        container.environment.push(variable.clone());
    }
    container.cpu = over.cpu.unwrap_or(container.cpu);
    container.memory = over.memory.or(container.memory);
    container.memory_reservation = over.memory_reservation.or(container.memory_reservation);
}

fn container(wire: v1::Container) -> Result<ContainerSpec, String> {
    let in_name = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if !(1..=255).contains(&wire.name.len()) || !wire.name.bytes().all(in_name) {
        return Err(format!(
            "containers.name {:?}: not 1 to 255 of A-Z a-z 0-9 - _",
            short(&wire.name)
        ));
    }
    let name = wire.name.clone();
    checked(wire).map_err(|why| format!("container {name}: {why}"))
}

fn checked(wire: v1::Container) -> Result<ContainerSpec, String> {
    plain("image", &wire.image, 2048)?;
    for (field, value) in [
        ("workingDirectory", &wire.working_directory),
        ("user", &wire.user),
        ("hostname", &wire.hostname),
    ] {
        if let Some(value) = value {
            plain(field, value, 4096)?;
        }
    }
    if wire.stop_timeout_seconds > Some(LONGEST_STOP_TIMEOUT) {
        return Err(format!("stopTimeout: at most {LONGEST_STOP_TIMEOUT} s"));
    }
    let stop_timeout = wire.stop_timeout_seconds.map(u64::from);
    Ok(ContainerSpec {
        entry_point: words("entryPoint", wire.entry_point)?,
        command: words("command", wire.command)?,
        environment: environment(wire.environment)?,
        cap_add: capabilities(wire.cap_add)?,
        cap_drop: capabilities(wire.cap_drop)?,
        ulimits: ulimits(wire.ulimits)?,
        ports: ports(&wire.ports)?,
        stop_timeout: stop_timeout.map_or(STOP_TIMEOUT, Duration::from_secs),
        name: wire.name,
        image: wire.image,
        essential: wire.essential,
        cpu: wire.cpu,
        memory: wire.memory,
        memory_reservation: wire.memory_reservation,
        working_directory: wire.working_directory,
        user: wire.user,
        hostname: wire.hostname,
        privileged: wire.privileged,
        readonly_root: wire.readonly_root,
        no_new_privileges: wire.no_new_privileges,
    })
}

fn words(field: &str, words: Vec<String>) -> Result<Option<Vec<String>>, String> {
    few(field, words.len())?;
    for word in &words {
        text(field, word)?;
    }
    Ok((!words.is_empty()).then_some(words))
}

fn environment(variables: Vec<v1::KeyValue>) -> Result<Vec<(String, String)>, String> {
    few("environment", variables.len())?;
    let pairs = variables.into_iter().map(|variable| {
        text("environment.name", &variable.name)?;
        text("environment.value", &variable.value)?;
        if variable.name.is_empty() || variable.name.contains('=') {
            return Err("environment.name: empty or with `=`".to_owned());
        }
        Ok((variable.name, variable.value))
    });
    pairs.collect()
}

fn capabilities(names: Vec<String>) -> Result<Vec<String>, String> {
    few("capabilities", names.len())?;
    let in_name = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    for name in &names {
        if !(1..=64).contains(&name.len()) || !name.bytes().all(in_name) {
            return Err(format!("capabilities: {:?} is none", short(name)));
        }
    }
    Ok(names)
}

fn ulimits(limits: Vec<v1::Ulimit>) -> Result<Vec<Ulimit>, String> {
    few("ulimits", limits.len())?;
    let checked = limits.into_iter().map(|limit| {
        let named = (1..=32).contains(&limit.name.len())
            && limit.name.bytes().all(|b| b.is_ascii_lowercase());
        if !named || limit.soft > limit.hard {
            return Err(format!(
                "ulimits: {:?} is none, or its soft limit exceeds its hard one",
                short(&limit.name)
            ));
        }
        Ok(Ulimit {
            name: limit.name,
            soft: limit.soft,
            hard: limit.hard,
        })
    });
    checked.collect()
}

fn ports(mappings: &[v1::PortMapping]) -> Result<Vec<PortMapping>, String> {
    few("portMappings", mappings.len())?;
    let checked = mappings.iter().map(|mapping| {
        Ok(PortMapping {
            container_port: port(mapping.container_port)?,
            host_port: mapping.host_port.map(port).transpose()?,
            protocol: match mapping.transport() {
                v1::Transport::Tcp => Protocol::Tcp,
                v1::Transport::Udp => Protocol::Udp,
                v1::Transport::Unspecified => {
                    return Err("portMappings.protocol: unknown to this agent".to_owned());
                }
            },
        })
    });
    checked.collect()
}

fn port(number: u32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("portMappings: {number} is no port")),
    }
}

fn few(field: &str, count: usize) -> Result<(), String> {
    if count > ENTRIES {
        return Err(format!("{field}: {count} entries, at most {ENTRIES}"));
    }
    Ok(())
}

/// Text that reaches the kernel: bounded and without NUL.
fn text(field: &str, value: &str) -> Result<(), String> {
    if value.len() > TEXT || value.contains('\0') {
        return Err(format!("{field}: longer than {TEXT} bytes, or with a NUL"));
    }
    Ok(())
}

/// Text that is also shown: not empty, no control characters.
fn plain(field: &str, value: &str, most: usize) -> Result<(), String> {
    if value.is_empty() || value.len() > most || value.chars().any(char::is_control) {
        return Err(format!("{field}: not 1 to {most} bytes of plain text"));
    }
    Ok(())
}

fn short(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tell::sample::{arn, id};
    use super::*;

    fn main() -> v1::Container {
        v1::Container {
            name: "main".into(),
            image: "busybox".into(),
            essential: true,
            ..Default::default()
        }
    }

    fn definition(containers: Vec<v1::Container>) -> v1::Definition {
        v1::Definition {
            family: "web".into(),
            revision: 1,
            network_mode: v1::NetworkMode::None.into(),
            containers,
            ..Default::default()
        }
    }

    fn task() -> v1::Task {
        v1::Task {
            arn: arn(1),
            ..Default::default()
        }
    }

    fn value(name: &str, value: &str) -> v1::KeyValue {
        v1::KeyValue {
            name: name.into(),
            value: value.into(),
        }
    }

    #[test]
    fn overrides_replace_what_they_name_and_nothing_else() {
        let mut container = main();
        container.command = vec!["old".into()];
        container.environment = vec![value("A", "1"), value("B", "2")];
        container.memory = Some(64);
        let mut task = task();
        task.cpu = Some(512);
        task.overrides = vec![v1::ContainerOverride {
            name: "main".into(),
            command: Some(v1::Command {
                words: vec!["new".into()],
            }),
            environment: vec![value("A", "3"), value("C", "")],
            cpu: Some(7),
            ..Default::default()
        }];
        let spec = spec(id(1), &task, &definition(vec![container])).unwrap();
        let made = &spec.containers[0];
        assert_eq!((spec.cpu, made.cpu, made.memory), (Some(512), 7, Some(64)));
        assert_eq!(made.command, Some(vec!["new".to_owned()]));
        let environment: Vec<String> = made
            .environment
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        assert_eq!(environment, ["B=2", "A=3", "C="]);
        assert_eq!(made.stop_timeout, STOP_TIMEOUT);
    }

    #[test]
    fn what_cannot_run_faithfully_is_refused_by_field() {
        let broken = |change: &dyn Fn(&mut v1::Definition)| {
            let mut definition = definition(vec![main()]);
            change(&mut definition);
            spec(id(1), &task(), &definition).unwrap_err()
        };
        let refused: Vec<(&str, String)> = vec![
            (
                "awsvpc",
                broken(&|d| d.network_mode = v1::NetworkMode::Awsvpc.into()),
            ),
            ("networkMode", broken(&|d| d.network_mode = 99)),
            (
                "upgrade",
                broken(&|d| d.requires = vec!["ephemeralStorage".into(), "gpus".into()]),
            ),
            (
                "ephemeralStorage",
                broken(&|d| d.ephemeral_storage = Some(0)),
            ),
            (
                "ephemeralStorage",
                broken(&|d| d.ephemeral_storage = Some(16_001)),
            ),
            ("same name", broken(&|d| d.containers.push(main()))),
            ("essential", broken(&|d| d.containers[0].essential = false)),
            ("not 1 to", broken(&|d| d.containers.clear())),
            (
                "containers.name",
                broken(&|d| d.containers[0].name = "a/b".into()),
            ),
            ("image", broken(&|d| d.containers[0].image.clear())),
            (
                "NUL",
                broken(&|d| d.containers[0].command = vec!["a\0b".into()]),
            ),
            (
                "environment",
                broken(&|d| d.containers[0].environment = vec![value("A=B", "")]),
            ),
            (
                "capabilities",
                broken(&|d| d.containers[0].cap_add = vec!["net_admin".into()]),
            ),
            (
                "stopTimeout",
                broken(&|d| d.containers[0].stop_timeout_seconds = Some(u32::MAX)),
            ),
            (
                "no port",
                broken(&|d| d.containers[0].ports = vec![v1::PortMapping::default()]),
            ),
        ];
        for (expected, error) in refused {
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let mut stranger = task();
        stranger.overrides = vec![v1::ContainerOverride::default()];
        let error = spec(id(1), &stranger, &definition(vec![main()])).unwrap_err();
        assert!(error.starts_with("overrides"), "{error}");
    }

    #[test]
    fn an_arn_is_one_of_this_cluster() {
        assert_eq!(task_id(&arn(1), "default"), Ok(id(1)));
        for bad in [
            "",
            "arn:x:task/default",
            "x:task/default/0",
            &arn(1).to_uppercase(),
        ] {
            assert!(task_id(bad, "default").is_err());
        }
        assert!(task_id(&arn(1), "other").is_err());
    }
}
