//! A registered definition (ECS's JSON) and a task's overrides, as the wire says them.
//!
//! What is not carried is refused by name, unless it is empty or only describes: no container ever
//! runs as something other than its definition says. Checking the definition's own rules (names, limits,
//! an essential container) is the north's at registration and the agent's before it runs anything.

use longshore_proto::v1;
use serde_json::{Map, Value};

use crate::definition::{Document, normalise};

type Object = Map<String, Value>;

/// Fields of a definition that are carried.
const TASK: &[&str] = &[
    "family",
    "cpu",
    "memory",
    "networkMode",
    "ephemeralStorage",
    "containerDefinitions",
];
/// Fields of a definition that say nothing about how it runs on a host, or were settled at placement.
const TASK_DESCRIBES: &[&str] = &[
    "taskDefinitionArn",
    "revision",
    "status",
    "tags",
    "compatibilities",
    "requiresCompatibilities",
    "requiresAttributes",
    "runtimePlatform",
    "registeredAt",
    "registeredBy",
    "deregisteredAt",
    // It serves pulls, logs and secrets, which are refused where they would need it.
    "executionRoleArn",
];
/// Fields of a container that are carried.
const CONTAINER: &[&str] = &[
    "name",
    "image",
    "essential",
    "cpu",
    "memory",
    "memoryReservation",
    "entryPoint",
    "command",
    "environment",
    "workingDirectory",
    "user",
    "hostname",
    "privileged",
    "readonlyRootFilesystem",
    "dockerSecurityOptions",
    "linuxParameters",
    "ulimits",
    "portMappings",
    "stopTimeout",
];
/// Fields of a container that say nothing about how it runs.
const CONTAINER_DESCRIBES: &[&str] = &["dockerLabels", "versionConsistency"];

/// The definition `family:revision` as agents run it, for tasks whose own `ephemeralStorage` is so many GiB, if it is any.
pub(super) fn definition(
    family: &str,
    revision: u32,
    document: &Value,
    own_storage: Option<u64>,
) -> Result<v1::Definition, String> {
    let task = object("the definition", document)?;
    refuse_others("", task, TASK, TASK_DESCRIBES)?;
    let containers = list(task, "containerDefinitions")?;
    let storage = own_storage.or(ephemeral_storage(task)?);
    Ok(v1::Definition {
        family: family.to_owned(),
        revision,
        cpu: number(task, "cpu")?,
        memory: number(task, "memory")?,
        network_mode: network_mode(text(task, "networkMode")?.as_deref())?.into(),
        containers: containers
            .iter()
            .enumerate()
            .map(|(n, value)| container(n, value))
            .collect::<Result<_, _>>()?,
        // Older agents would run it without the limit.
        requires: storage
            .map(|_| "ephemeralStorage".to_owned())
            .into_iter()
            .collect(),
        ephemeral_storage: storage,
    })
}

/// A task's own values: RunTask's `overrides`.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Overrides {
    pub(super) cpu: Option<u32>,
    pub(super) memory: Option<u64>,
    /// GiB.
    pub(super) ephemeral_storage: Option<u64>,
    pub(super) containers: Vec<v1::ContainerOverride>,
}

/// Reads RunTask's `overrides`.
pub(super) fn overrides(value: &Value) -> Result<Overrides, String> {
    let task = object("overrides", value)?;
    let known = ["cpu", "memory", "ephemeralStorage", "containerOverrides"];
    refuse_others("overrides.", task, &known, &["executionRoleArn"])?;
    let (cpu, memory) = quantities(task)?;
    let mut containers = Vec::new();
    for value in list(task, "containerOverrides")? {
        let one = object("containerOverrides", value)?;
        let known = [
            "name",
            "command",
            "environment",
            "cpu",
            "memory",
            "memoryReservation",
        ];
        refuse_others("containerOverrides.", one, &known, &[])?;
        let command = one.get("command").filter(|v| !v.is_null());
        containers.push(v1::ContainerOverride {
            name: text(one, "name")?.unwrap_or_default(),
            command: command
                .map(|_| strings(one, "command").map(|words| v1::Command { words }))
                .transpose()?,
            environment: environment(one)?,
            cpu: number(one, "cpu")?,
            memory: number(one, "memory")?,
            memory_reservation: number(one, "memoryReservation")?,
        });
    }
    Ok(Overrides {
        cpu,
        memory,
        ephemeral_storage: ephemeral_storage(task)?,
        containers,
    })
}

/// GiB.
fn ephemeral_storage(task: &Object) -> Result<Option<u64>, String> {
    let Some(storage) = task.get("ephemeralStorage").filter(|v| !v.is_null()) else {
        return Ok(None);
    };
    let storage = object("ephemeralStorage", storage)?;
    refuse_others("ephemeralStorage.", storage, &["sizeInGiB"], &[])?;
    number(storage, "sizeInGiB")
}

/// A task's own cpu and memory, which RunTask takes as text in several forms (`.25 vCPU`, `1 GB`).
fn quantities(task: &Object) -> Result<(Option<u32>, Option<u64>), String> {
    let mut document = Document {
        cpu: text(task, "cpu")?,
        memory: text(task, "memory")?,
        ..Document::default()
    };
    normalise(&mut document).map_err(|invalid| invalid.to_string())?;
    let whole = "cpu or memory is no number of its range";
    let cpu = document.cpu.map(|cpu| cpu.parse()).transpose();
    let memory = document.memory.map(|memory| memory.parse()).transpose();
    Ok((cpu.map_err(|_| whole)?, memory.map_err(|_| whole)?))
}

fn container(n: usize, value: &Value) -> Result<v1::Container, String> {
    let at = format!("containerDefinitions[{n}].");
    let one = object(&at, value)?;
    refuse_log_drivers(&at, one)?;
    let describes = [CONTAINER_DESCRIBES, &["logConfiguration"]].concat();
    refuse_others(&at, one, CONTAINER, &describes)?;
    let (cap_add, cap_drop) = capabilities(&at, one)?;
    Ok(v1::Container {
        name: text(one, "name")?.unwrap_or_default(),
        image: text(one, "image")?.unwrap_or_default(),
        essential: flag(one, "essential")?.unwrap_or(true),
        cpu: number(one, "cpu")?.unwrap_or(0),
        memory: number(one, "memory")?,
        memory_reservation: number(one, "memoryReservation")?,
        entry_point: strings(one, "entryPoint")?,
        command: strings(one, "command")?,
        environment: environment(one)?,
        working_directory: text(one, "workingDirectory")?,
        user: text(one, "user")?,
        hostname: text(one, "hostname")?,
        privileged: flag(one, "privileged")?.unwrap_or(false),
        readonly_root: flag(one, "readonlyRootFilesystem")?.unwrap_or(false),
        no_new_privileges: no_new_privileges(&at, one)?,
        cap_add,
        cap_drop,
        ulimits: ulimits(one)?,
        ports: ports(one)?,
        stop_timeout_seconds: number(one, "stopTimeout")?,
    })
}

fn network_mode(mode: Option<&str>) -> Result<v1::NetworkMode, String> {
    match mode {
        // ECS's default on Linux.
        None | Some("bridge") => Ok(v1::NetworkMode::Bridge),
        Some("none") => Ok(v1::NetworkMode::None),
        Some("host") => Ok(v1::NetworkMode::Host),
        Some("awsvpc") => Ok(v1::NetworkMode::Awsvpc),
        Some(other) => Err(format!("networkMode: {other:?} is none of ECS's")),
    }
}

/// Every container's output is kept by its monitor; that is what json-file says.
fn refuse_log_drivers(at: &str, one: &Object) -> Result<(), String> {
    let Some(log) = one.get("logConfiguration").filter(|v| !is_empty(v)) else {
        return Ok(());
    };
    let log = object(&format!("{at}logConfiguration"), log)?;
    refuse_others(&format!("{at}logConfiguration."), log, &["logDriver"], &[])?;
    match text(log, "logDriver")?.as_deref() {
        None | Some("json-file") => Ok(()),
        Some(other) => Err(format!(
            "{at}logConfiguration.logDriver: {other:?} is not supported yet, json-file is"
        )),
    }
}

fn no_new_privileges(at: &str, one: &Object) -> Result<bool, String> {
    let options = strings(one, "dockerSecurityOptions")?;
    for option in &options {
        if option != "no-new-privileges" && option != "no-new-privileges:true" {
            return Err(format!(
                "{at}dockerSecurityOptions: {option:?} is not supported, no-new-privileges is"
            ));
        }
    }
    Ok(!options.is_empty())
}

fn capabilities(at: &str, one: &Object) -> Result<(Vec<String>, Vec<String>), String> {
    let Some(linux) = one.get("linuxParameters").filter(|v| !is_empty(v)) else {
        return Ok((Vec::new(), Vec::new()));
    };
    let at = format!("{at}linuxParameters.");
    let linux = object(&at, linux)?;
    refuse_others(&at, linux, &["capabilities"], &[])?;
    let Some(both) = linux.get("capabilities").filter(|v| !is_empty(v)) else {
        return Ok((Vec::new(), Vec::new()));
    };
    let both = object(&at, both)?;
    Ok((strings(both, "add")?, strings(both, "drop")?))
}

fn environment(one: &Object) -> Result<Vec<v1::KeyValue>, String> {
    let pairs = list(one, "environment")?.iter().map(|pair| {
        let pair = object("environment", pair)?;
        Ok(v1::KeyValue {
            name: text(pair, "name")?.unwrap_or_default(),
            value: text(pair, "value")?.unwrap_or_default(),
        })
    });
    pairs.collect()
}

fn ulimits(one: &Object) -> Result<Vec<v1::Ulimit>, String> {
    let limits = list(one, "ulimits")?.iter().map(|limit| {
        let limit = object("ulimits", limit)?;
        let bound = |field| {
            number::<i64>(limit, field)?
                .map(|n| if n < 0 { u64::MAX } else { n.unsigned_abs() })
                .ok_or_else(|| format!("ulimits: {field} is missing"))
        };
        Ok(v1::Ulimit {
            name: text(limit, "name")?.unwrap_or_default(),
            soft: bound("softLimit")?,
            hard: bound("hardLimit")?,
        })
    });
    limits.collect()
}

fn ports(one: &Object) -> Result<Vec<v1::PortMapping>, String> {
    let mappings = list(one, "portMappings")?.iter().map(|mapping| {
        let mapping = object("portMappings", mapping)?;
        let known = ["containerPort", "hostPort", "protocol"];
        // A name and an application protocol are for Service Connect, which north answers for.
        refuse_others("portMappings.", mapping, &known, &["name", "appProtocol"])?;
        let transport = match text(mapping, "protocol")?.as_deref() {
            None | Some("tcp") => v1::Transport::Tcp,
            Some("udp") => v1::Transport::Udp,
            Some(other) => {
                return Err(format!(
                    "portMappings.protocol: {other:?} is neither tcp nor udp"
                ));
            }
        };
        Ok(v1::PortMapping {
            container_port: number(mapping, "containerPort")?
                .ok_or("portMappings: containerPort is missing")?,
            host_port: number(mapping, "hostPort")?.filter(|port| *port != 0),
            transport: transport.into(),
        })
    });
    mappings.collect()
}

fn refuse_others(
    at: &str,
    object: &Object,
    carried: &[&str],
    describes: &[&str],
) -> Result<(), String> {
    for (name, value) in object {
        let known = carried.contains(&name.as_str()) || describes.contains(&name.as_str());
        if !known && !is_empty(value) {
            return Err(format!("{at}{name} is not supported yet: remove it"));
        }
    }
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.values().all(is_empty),
    }
}

fn object<'a>(what: &str, value: &'a Value) -> Result<&'a Object, String> {
    value.as_object().ok_or(format!("{what} is no JSON object"))
}

fn list<'a>(object: &'a Object, field: &str) -> Result<&'a [Value], String> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(format!("{field} is no list")),
    }
}

fn text(object: &Object, field: &str) -> Result<Option<String>, String> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("{field} is no text")),
    }
}

fn flag(object: &Object, field: &str) -> Result<Option<bool>, String> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(format!("{field} is neither true nor false")),
    }
}

/// A number, also as text: ECS writes a task's cpu and memory so.
fn number<N: TryFrom<i64>>(object: &Object, field: &str) -> Result<Option<N>, String> {
    let number = match object.get(field) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_i64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(_) => None,
    };
    let number = number.and_then(|n| N::try_from(n).ok());
    number
        .map(Some)
        .ok_or(format!("{field} is no number of its range"))
}

fn strings(object: &Object, field: &str) -> Result<Vec<String>, String> {
    let words = list(object, field)?.iter().map(|word| {
        let word = word
            .as_str()
            .ok_or(format!("{field} holds something that is no text"))?;
        Ok(word.to_owned())
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(field: &str, value: Value) -> Result<v1::Definition, String> {
        let mut document = crate::south::fixture::document();
        document["containerDefinitions"][0][field] = value;
        definition("web", 1, &document, None)
    }

    #[test]
    fn a_whole_definition_is_carried() {
        let document = json!({
            "family": "web", "cpu": "256", "memory": "512", "networkMode": "bridge", "volumes": [],
            "placementConstraints": [], "requiresCompatibilities": ["EC2"],
            "containerDefinitions": [{
                "name": "main", "image": "busybox:1", "essential": false, "cpu": 128, "memory": 64,
                "memoryReservation": 32, "entryPoint": ["/bin/sh"], "command": ["-c", "true"],
                "environment": [{"name": "A", "value": "b"}], "workingDirectory": "/tmp", "user": "nobody",
                "hostname": "h", "privileged": true, "readonlyRootFilesystem": true,
                "dockerSecurityOptions": ["no-new-privileges"],
                "linuxParameters": {"capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "devices": []},
                "ulimits": [{"name": "nofile", "softLimit": 10, "hardLimit": -1}],
                "portMappings": [{"containerPort": 80, "hostPort": 0}, {"containerPort": 53, "hostPort": 5353, "protocol": "udp"}],
                "stopTimeout": 5, "mountPoints": [], "volumesFrom": [], "systemControls": []
            }]
        });
        let made = definition("web", 3, &document, None).unwrap();
        assert_eq!(
            (made.cpu, made.memory, made.revision),
            (Some(256), Some(512), 3)
        );
        assert_eq!(made.network_mode(), v1::NetworkMode::Bridge);
        let main = &made.containers[0];
        assert_eq!(main.entry_point, ["/bin/sh"]);
        assert!(main.privileged && main.readonly_root && main.no_new_privileges && !main.essential);
        assert_eq!(
            (&main.cap_add[0][..], &main.cap_drop[0][..]),
            ("NET_ADMIN", "ALL")
        );
        assert_eq!(main.ulimits[0].hard, u64::MAX);
        assert_eq!(main.ports[0].host_port, None);
        assert_eq!(
            (main.ports[1].host_port, main.ports[1].transport()),
            (Some(5353), v1::Transport::Udp)
        );
        assert_eq!(main.stop_timeout_seconds, Some(5));
    }

    #[test]
    fn what_is_not_carried_is_refused_by_name() {
        for (field, value) in [
            ("mountPoints", json!([{"sourceVolume": "v"}])),
            ("dependsOn", json!([{"containerName": "x"}])),
            ("secrets", json!([{"name": "x"}])),
            ("healthCheck", json!({"command": ["x"]})),
            (
                "linuxParameters",
                json!({"devices": [{"hostPath": "/dev/kvm"}]}),
            ),
            ("logConfiguration", json!({"logDriver": "awslogs"})),
            ("dockerSecurityOptions", json!(["apparmor:x"])),
            ("somethingNew", json!(1)),
        ] {
            let error = with(field, value).unwrap_err();
            assert!(error.contains("not supported"), "{field}: {error}");
        }
        assert!(with("logConfiguration", json!({"logDriver": "json-file"})).is_ok());
        assert!(with("dockerLabels", json!({"a": "b"})).is_ok());
        assert!(with("cpu", json!(-1)).is_err());
        assert!(with("environment", json!({"a": 1})).is_err());
    }

    #[test]
    fn what_north_lets_run_can_be_said_on_the_wire() {
        let mut document: Document = serde_json::from_value(json!({
            "family": "web", "cpu": "256", "memory": "512", "networkMode": "bridge",
            "requiresCompatibilities": ["EC2"], "executionRoleArn": "arn:aws:iam::1:role/x",
            "runtimePlatform": {"cpuArchitecture": "X86_64", "operatingSystemFamily": "LINUX"},
            "containerDefinitions": [{
                "name": "main", "image": "busybox:1", "dockerLabels": {"a": "b"}, "interactive": false,
                "versionConsistency": "disabled", "pseudoTerminal": false, "links": [], "secrets": [],
                "linuxParameters": {"initProcessEnabled": false, "capabilities": {"add": [], "drop": ["CHOWN"]}},
                "logConfiguration": {"logDriver": "json-file", "options": {}},
                "ulimits": [{"name": "nofile", "softLimit": 1, "hardLimit": 2}],
                "portMappings": [{"containerPort": 80, "name": "http", "appProtocol": "http"}]
            }]
        }))
        .unwrap();
        crate::definition::complete(&mut document);
        assert_eq!(crate::definition::unsupported(&document), None);
        let document = serde_json::to_value(&document).unwrap();
        let made = definition("web", 1, &document, None).unwrap();
        assert_eq!(made.containers[0].ports[0].host_port, None);
        assert_eq!(made.containers[0].cap_drop, ["CHOWN"]);
    }

    /// An agent that does not know it must refuse the task, not run it without the limit.
    #[test]
    fn a_disk_is_asked_for_by_name_and_a_task_s_own_counts() {
        let document = json!({
            "family": "web", "ephemeralStorage": {"sizeInGiB": 21},
            "containerDefinitions": [{"name": "main", "image": "busybox"}]
        });
        for (own, size) in [(None, 21), (Some(30), 30)] {
            let made = definition("web", 1, &document, own).unwrap();
            assert_eq!(made.ephemeral_storage, Some(size));
            assert_eq!(made.requires, ["ephemeralStorage"]);
        }
    }

    #[test]
    fn overrides_keep_an_empty_command_apart_from_none() {
        let made = overrides(&json!({"cpu": ".5 vCPU", "memory": "1 GB", "containerOverrides": [
            {"name": "a", "command": []}, {"name": "b", "environment": [{"name": "X", "value": ""}]}
        ]}))
        .unwrap();
        assert_eq!((made.cpu, made.memory), (Some(512), Some(1024)));
        assert_eq!(
            made.containers[0].command,
            Some(v1::Command { words: vec![] })
        );
        assert_eq!(made.containers[1].command, None);
        assert_eq!(overrides(&json!({})).unwrap(), Overrides::default());
        let disk = overrides(&json!({"ephemeralStorage": {"sizeInGiB": 30}})).unwrap();
        assert_eq!(disk.ephemeral_storage, Some(30));
        assert!(overrides(&json!({"ephemeralStorage": {"sizeInGiB": "x"}})).is_err());
        assert!(overrides(&json!({"ephemeralStorage": {"size": 1}})).is_err());
    }
}
