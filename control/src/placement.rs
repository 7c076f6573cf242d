//! Which host gets a task: a pure function of what the task needs and what the hosts have left.
//!
//! A host must be connected, have the attributes and have the resources. Among those that will do, the
//! one with the most free memory wins, then the most free CPU, then the fewest tasks, then the least id:
//! the same question always has the same answer.
//!
//! Absent: placement strategies and `memberOf`, refused by RunTask; keeping two placements apart, which
//! the store's compare-and-swap does.

use std::cmp::Reverse;

use crate::definition::{Document, Need, NetworkMode, TransportProtocol, needs};
use crate::model::{Instance, Resources, Status, Task};

/// What one task asks of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Taken from the host until the task is STOPPED.
    pub resources: Resources,
    /// Attributes the host must have.
    pub needs: Vec<Need>,
    /// `distinctInstance`: no host that runs a task of this group already.
    pub apart_from: Option<String>,
}

impl Demand {
    /// The demand of a document with its overrides applied.
    #[must_use]
    pub fn of(document: &Document) -> Demand {
        let containers = &document.container_definitions;
        let cpu = || {
            containers
                .iter()
                .fold(0_u32, |sum, c| sum.saturating_add(c.cpu))
        };
        let reserved = containers.iter().filter_map(|c| c.reserved_memory());
        let memory = || reserved.fold(0_u64, u64::saturating_add);
        Demand {
            resources: Resources {
                cpu: document.task_cpu().unwrap_or_else(cpu),
                memory: document.task_memory().unwrap_or_else(memory),
                ports: host_ports(document, TransportProtocol::Tcp),
                ports_udp: host_ports(document, TransportProtocol::Udp),
            },
            needs: needs(document),
            apart_from: None,
        }
    }
}

/// The ports a task will hold on its host that are known beforehand.
fn host_ports(document: &Document, transport: TransportProtocol) -> Vec<u16> {
    let mappings = document.container_definitions.iter();
    let mappings = mappings.flat_map(|c| &c.port_mappings);
    let mappings = mappings.filter(|m| m.transport() == transport);
    let port = |m: &crate::definition::PortMapping| match document.network() {
        NetworkMode::Host => m.container_port,
        NetworkMode::Bridge => m.host_port.filter(|port| *port != 0),
        NetworkMode::None | NetworkMode::Awsvpc => None,
    };
    mappings.filter_map(port).collect()
}

/// A host and what its tasks hold.
#[derive(Clone, Debug)]
pub struct Host {
    /// The host.
    pub instance: Instance,
    /// The sum over its tasks that are not STOPPED.
    pub held: Resources,
    /// The groups of those tasks, one entry for each task.
    pub groups: Vec<String>,
}

impl Host {
    /// The host with what `tasks` hold of it; tasks of other hosts and STOPPED ones count for nothing.
    pub fn with<'a>(instance: Instance, tasks: impl IntoIterator<Item = &'a Task>) -> Host {
        let mut host = Host {
            instance,
            held: Resources::default(),
            groups: Vec::new(),
        };
        for task in tasks {
            if task.instance == host.instance.id && task.status != Status::Stopped {
                host.hold(&held_by(task), &task.group);
            }
        }
        host
    }

    /// Takes away what one more task holds.
    pub fn hold(&mut self, resources: &Resources, group: &str) {
        self.held.cpu = self.held.cpu.saturating_add(resources.cpu);
        self.held.memory = self.held.memory.saturating_add(resources.memory);
        self.held.ports.extend(&resources.ports);
        self.held.ports_udp.extend(&resources.ports_udp);
        self.groups.push(group.to_owned());
    }

    /// What is left. `ports` are the taken ones, as ECS's `remainingResources` lists them.
    #[must_use]
    pub fn remaining(&self) -> Resources {
        let total = &self.instance.total;
        Resources {
            cpu: total.cpu.saturating_sub(self.held.cpu),
            memory: total.memory.saturating_sub(self.held.memory),
            ports: union(&total.ports, &self.held.ports),
            ports_udp: union(&total.ports_udp, &self.held.ports_udp),
        }
    }
}

/// What a task holds: what it was placed with, and the ports it was given since.
fn held_by(task: &Task) -> Resources {
    let mut held = task.holds.clone();
    for binding in task.containers.iter().flat_map(|c| &c.bindings) {
        match binding.protocol.as_str() {
            "udp" => held.ports_udp.push(binding.host_port),
            _ => held.ports.push(binding.host_port),
        }
    }
    held
}

fn union(a: &[u16], b: &[u16]) -> Vec<u16> {
    let mut all: Vec<u16> = a.iter().chain(b).copied().collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Why a host will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// ECS's `failures[].reason`.
    pub reason: &'static str,
    /// For people: what is short, and the remedy where there is one.
    pub detail: String,
}

/// The index of the host to place on.
///
/// # Errors
/// Why each host will not do, in the hosts' order.
pub fn place(demand: &Demand, hosts: &[Host]) -> Result<usize, Vec<Misfit>> {
    let mut misfits = Vec::new();
    let mut fitting = Vec::new();
    for (index, host) in hosts.iter().enumerate() {
        match fit(demand, host) {
            Ok(()) => fitting.push((index, host)),
            Err(misfit) => misfits.push(misfit),
        }
    }
    let best = fitting.into_iter().min_by_key(|(_, host)| {
        let left = host.remaining();
        let load = host.groups.len();
        (
            Reverse(left.memory),
            Reverse(left.cpu),
            load,
            host.instance.id.clone(),
        )
    });
    best.map(|(index, _)| index).ok_or(misfits)
}

/// Whether the host will do.
///
/// # Errors
/// The first reason why not.
pub fn fit(demand: &Demand, host: &Host) -> Result<(), Misfit> {
    let name = &host.instance.host_name;
    let misfit = |reason, detail| Err(Misfit { reason, detail });
    if !host.instance.connected {
        return misfit(
            "AGENT",
            format!("The agent of host {name} is not connected."),
        );
    }
    if let Some(need) = demand.needs.iter().find(|need| !offers(host, need)) {
        return misfit(
            "ATTRIBUTE",
            format!(
                "Host {name} does not have attribute {}, needed by {}.",
                need.any_of[0], need.reason
            ),
        );
    }
    if let Some(group) = demand
        .apart_from
        .as_ref()
        .filter(|g| host.groups.contains(g))
    {
        return misfit(
            "distinctInstance placement constraint unsatisfied.",
            format!("Host {name} already runs a task of group {group}."),
        );
    }
    let (wanted, left) = (&demand.resources, host.remaining());
    if wanted.cpu > left.cpu {
        return misfit(
            "RESOURCE:CPU",
            short(name, "CPU units", left.cpu, wanted.cpu),
        );
    }
    if wanted.memory > left.memory {
        return misfit(
            "RESOURCE:MEMORY",
            short(name, "MiB of memory", left.memory, wanted.memory),
        );
    }
    let taken = |wanted: &[u16], taken: &[u16]| wanted.iter().find(|p| taken.contains(p)).copied();
    let tcp = taken(&wanted.ports, &left.ports);
    let udp = taken(&wanted.ports_udp, &left.ports_udp);
    if let Some(port) = tcp.or(udp) {
        return misfit(
            "RESOURCE:PORTS",
            format!("Port {port} of host {name} is reserved or in use."),
        );
    }
    Ok(())
}

fn offers(host: &Host, need: &Need) -> bool {
    host.instance.attributes.iter().any(|(name, value)| {
        need.any_of.contains(name)
            && need
                .value
                .as_ref()
                .is_none_or(|v| value.as_ref() == Some(v))
    })
}

fn short(
    host: &str,
    what: &str,
    left: impl std::fmt::Display,
    wanted: impl std::fmt::Display,
) -> String {
    format!("Host {host} has {left} {what} left; the task needs {wanted}.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn host(id: &str, cpu: u32, memory: u64) -> Host {
        let total = Resources {
            cpu,
            memory,
            ports: vec![22],
            ports_udp: vec![],
        };
        Host::with(crate::model::samples::instance("default", id, total), [])
    }

    fn demand(document: serde_json::Value) -> Demand {
        let document: Document = serde_json::from_value(document).unwrap();
        Demand::of(&document)
    }

    fn simple(cpu: u32, memory: u64) -> Demand {
        demand(json!({"family": "f", "containerDefinitions": [
            {"name": "a", "image": "i", "cpu": cpu, "memory": memory}]}))
    }

    fn reasons(demand: &Demand, hosts: &[Host]) -> Vec<&'static str> {
        let misfits = place(demand, hosts).unwrap_err();
        misfits.into_iter().map(|m| m.reason).collect()
    }

    #[test]
    fn a_demand_is_the_tasks_or_the_sum_of_its_containers() {
        let containers = json!([
            {"name": "a", "image": "i", "cpu": 10, "memory": 64, "memoryReservation": 32,
             "portMappings": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81, "hostPort": 0}]},
            {"name": "b", "image": "i", "cpu": 20, "memory": 16,
             "portMappings": [{"containerPort": 53, "hostPort": 53, "protocol": "udp"}]}]);
        let sum = demand(json!({"family": "f", "containerDefinitions": containers})).resources;
        assert_eq!((sum.cpu, sum.memory), (30, 48));
        assert_eq!((sum.ports, sum.ports_udp), (vec![8080], vec![53]));
        let task = demand(json!({"family": "f", "cpu": "256", "memory": "512",
            "networkMode": "host", "containerDefinitions": containers}))
        .resources;
        assert_eq!((task.cpu, task.memory), (256, 512));
        assert_eq!((task.ports, task.ports_udp), (vec![80, 81], vec![53]));
    }

    #[test]
    fn the_host_with_most_free_memory_wins_and_ties_are_settled() {
        let hosts = [
            host("b", 1024, 512),
            host("a", 1024, 512),
            host("c", 1024, 256),
        ];
        assert_eq!(place(&simple(1, 8), &hosts), Ok(1));
        let mut busy = hosts.clone();
        busy[1].hold(&simple(1, 8).resources, "family:f");
        assert_eq!(place(&simple(1, 8), &busy), Ok(0));
    }

    #[test]
    fn each_shortage_has_ecs_reason() {
        let hosts = [host("a", 100, 100)];
        assert_eq!(reasons(&simple(101, 8), &hosts), ["RESOURCE:CPU"]);
        assert_eq!(reasons(&simple(1, 101), &hosts), ["RESOURCE:MEMORY"]);
        let mut ports = simple(1, 8);
        ports.resources.ports = vec![22];
        assert_eq!(reasons(&ports, &hosts), ["RESOURCE:PORTS"]);
        let mut away = hosts.clone();
        away[0].instance.connected = false;
        assert_eq!(reasons(&simple(1, 8), &away), ["AGENT"]);
        let mut apart = simple(1, 8);
        apart.apart_from = Some("g".into());
        let mut taken = hosts.clone();
        taken[0].hold(&Resources::default(), "g");
        assert!(reasons(&apart, &taken)[0].starts_with("distinctInstance"));
        assert_eq!(place(&apart, &hosts), Ok(0));
    }

    #[test]
    fn what_the_host_forbids_is_told_with_the_remedy() {
        let privileged = demand(json!({"family": "f", "containerDefinitions": [
            {"name": "a", "image": "i", "memory": 8, "privileged": true}]}));
        let mut hosts = [host("a", 100, 100)];
        let misfit = place(&privileged, &hosts).unwrap_err().remove(0);
        assert_eq!(misfit.reason, "ATTRIBUTE");
        assert_eq!(
            misfit.detail,
            "Host host-a does not have attribute com.amazonaws.ecs.capability.privileged-container, needed by privileged container 'a'; to permit it, allow privileged in the host's policy."
        );
        let permit = "com.amazonaws.ecs.capability.privileged-container".to_owned();
        hosts[0].instance.attributes.push((permit, None));
        assert_eq!(place(&privileged, &hosts), Ok(0));
    }

    #[test]
    fn an_architecture_must_match_by_value() {
        let arm = demand(
            json!({"family": "f", "runtimePlatform": {"cpuArchitecture": "ARM64"},
            "containerDefinitions": [{"name": "a", "image": "i", "memory": 8}]}),
        );
        let mut hosts = [host("a", 100, 100)];
        let attribute = ("ecs.cpu-architecture".to_owned(), Some("x86_64".to_owned()));
        hosts[0].instance.attributes.push(attribute);
        assert_eq!(reasons(&arm, &hosts), ["ATTRIBUTE"]);
        hosts[0].instance.attributes[0].1 = Some("arm64".into());
        assert_eq!(place(&arm, &hosts), Ok(0));
    }

    #[test]
    fn a_stopping_task_still_holds_and_a_stopped_one_does_not() {
        let instance = host("a", 100, 100).instance;
        let mut task = crate::model::samples::task("default", "t", "a");
        task.holds = simple(60, 60).resources;
        for (status, held) in [
            (Status::Pending, 60),
            (Status::Running, 60),
            (Status::Stopping, 60),
            (Status::Stopped, 0),
        ] {
            task.status = status;
            assert_eq!(Host::with(instance.clone(), [&task]).held.cpu, held);
        }
    }

    proptest! {
        /// However many tasks are asked for, no host is ever given more than it has.
        #[test]
        fn no_host_is_overbooked(
            sizes in prop::collection::vec((1_u32..200, 6_u64..200, 0_u16..4), 0..40),
            totals in prop::collection::vec((0_u32..500, 0_u64..500), 1..5),
        ) {
            let mut hosts: Vec<Host> = totals.iter().enumerate()
                .map(|(n, (cpu, memory))| host(&n.to_string(), *cpu, *memory)).collect();
            for (cpu, memory, port) in sizes {
                let mut demand = simple(cpu, memory);
                demand.resources.ports = (port > 0).then_some(port).into_iter().collect();
                if let Ok(index) = place(&demand, &hosts) {
                    hosts[index].hold(&demand.resources, "g");
                }
            }
            for host in &hosts {
                prop_assert!(host.held.cpu <= host.instance.total.cpu);
                prop_assert!(host.held.memory <= host.instance.total.memory);
                let mut ports = host.held.ports.clone();
                ports.sort_unstable();
                let all = ports.len();
                ports.dedup();
                prop_assert_eq!(ports.len(), all);
            }
        }
    }
}
