//! Puts the agent together: opens the rooms below it, recovers, and lets the driver run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use longshore_engine::{Capacity, Engine, Status, TaskId, TaskReport};
use longshore_image::Store;
use longshore_network::Network;
use longshore_runtime::cgroup::Hierarchy;
use longshore_runtime::container::Runtime;
use tokio::sync::watch;

use crate::board::Board;
use crate::debug::{self, Sources};
use crate::driver::{Driver, Start, Upstream, now};
use crate::effects::{PullTurns, ThisHost, logs_root};
use crate::instance::make_private_dir;
use crate::journal::{Found, Journal};
use crate::link::{Link, LinkConfig, Registration};
use crate::lock::Lock;
use crate::upkeep::{self, Fresh};
use crate::{Config, Instance, cgroups, effects, join, logs, oci, recover};

/// How long another process may keep the image store from the agent.
const STORE_PATIENCE: Duration = Duration::from_secs(30);
/// How often old logs are looked for.
const LOGS_EXPIRE: Duration = Duration::from_secs(60 * 60);

impl Upstream for Link {
    fn report(&self, report: TaskReport) {
        Link::report(self, report);
    }

    fn forget(&self, task: &TaskId) {
        Link::forget(self, task);
    }

    fn acknowledge(&self, task: &TaskId, generation: u64, result: Result<(), String>) {
        Link::acknowledge(self, task, generation, result);
    }

    fn ask_orphans(&self, tasks: Vec<TaskId>) {
        Link::ask_orphans(self, tasks);
    }
}

/// Runs the agent until `shutdown` turns true, or its sender is gone.
///
/// Containers go on: they belong to their monitors, and the next agent of this instance takes them up
/// again. Errors are those that keep an agent from starting at all; each names its step and remedy.
pub async fn run(config: Config, shutdown: watch::Receiver<bool>) -> anyhow::Result<()> {
    config.instance.make_roots()?;
    let lock = Lock::take(&config.instance)?;
    let board = Board::default();
    let sources = Sources {
        board: board.clone(),
        instance: config.instance.clone(),
        tasks_cgroup: effects::tasks_cgroup(&cgroup_parent(&config)),
        images: Arc::default(),
        rules: config.images.rules(),
    };
    let (socket, _lock) = match join::first(&config, &sources, lock, shutdown.clone()).await? {
        Some(joined) => joined,
        None => return Ok(()),
    };
    let identity_dir = join::identity_dir(&config.instance);
    let (journal, mut found) = open_journal(&config)?;
    let host = Arc::new(open_host(&config).await?);
    sources.images.get_or_init(|| Arc::clone(&host.images));
    let capacity = capacity(&config)?;
    let registration = registration(&config, &capacity, &host);

    let records = std::mem::take(&mut found.records);
    let mut engine = Engine::restore(capacity, records);
    let recovered = recover::recover(&host, &engine, &found).await;
    for event in recovered.events {
        engine.handle(now(), event);
    }

    board.set_identity(found.identity.unwrap_or_default());
    let accepted = found.accepted;
    let (link, from_control) = Link::start(LinkConfig {
        endpoint: config.endpoint,
        token: config.token,
        identity_dir,
        registration,
        last_accepted: accepted.clone().map(|a| (a.store_id, a.generation)),
        held: engine
            .tasks()
            .filter_map(|task| engine.spec(task))
            .cloned()
            .collect(),
    });
    let refused = link.refused();
    let busy = engine
        .tasks()
        .filter_map(|task| engine.report(task))
        .any(|report| report.status != Status::Stopped);
    let driver = Driver::new(Start {
        engine,
        journal,
        world: Arc::clone(&host),
        upstream: link,
        from_control,
        accepted,
        board: board.clone(),
        alive: recovered.alive,
    });
    let link = tokio::select! {
        // First, so that a refusal is told once.
        biased;
        why = join_refused(refused, busy) => anyhow::bail!(why),
        link = driver.run(shutdown) => link,
        () = debug::serve(&socket, &sources) => anyhow::bail!("serve debug socket: it was closed"),
        () = expire_logs(&config.instance, &board) => anyhow::bail!("expire logs: it ended"),
        () = upkeep::run(host, &board, &config.images) => anyhow::bail!("keep images: it ended"),
    };
    link.shutdown().await;
    Ok(())
}

/// Returns why the control plane will not have this host; never while tasks of before run here, for they
/// want their agent. Without an identity no new ones can come.
async fn join_refused(mut refused: watch::Receiver<Option<String>>, busy: bool) -> String {
    if !busy && let Ok(why) = refused.wait_for(Option::is_some).await {
        return why.clone().unwrap_or_default();
    }
    std::future::pending().await
}

fn open_journal(config: &Config) -> anyhow::Result<(Journal, Found)> {
    recover::forget_earlier_boot(config.instance.run_root())?;
    Ok(Journal::open(&journal_file(&config.instance))?)
}

/// Where the journal lies; it is there once an agent of this instance was set up.
pub(crate) fn journal_file(instance: &Instance) -> PathBuf {
    instance.state_root().join("agent.redb")
}

fn cgroup_parent(config: &Config) -> String {
    let parent = config.cgroup_parent.clone();
    parent.unwrap_or_else(|| config.instance.cgroup_parent())
}

async fn open_host(config: &Config) -> anyhow::Result<ThisHost> {
    let instance = &config.instance;
    let hierarchy = Hierarchy::of_host()?;
    let cgroup_parent = cgroup_parent(config);
    let images = instance.state_root().join("images");
    let registries = config.registries.clone();
    // A verb of `longshore image` may be at the store just now.
    let keep_blobs = config.images.keep_blobs;
    let open = move || {
        let store = Store::open_within(&images, registries, STORE_PATIENCE);
        store.inspect(|store| store.keep_blobs(keep_blobs))
    };
    let images = Arc::new(tokio::task::spawn_blocking(open).await??);
    let network = Network::open(longshore_network::Config {
        run_root: instance.run_root().to_owned(),
        prefix: instance.interface_prefix(),
        table: instance.nft_table(),
        subnet: instance.subnet(),
        reserved_ports: config
            .reserved_ports
            .union(&config.reserved_ports_udp)
            .copied()
            .collect(),
    });
    let host = ThisHost {
        instance: instance.clone(),
        policy: config.policy.clone(),
        facts: host_facts()?,
        images,
        network: network.await?,
        runtime: Runtime::open(&config.runtime_binary)?,
        hierarchy,
        cgroup_parent,
        pulls: PullTurns::default(),
        pull_behaviour: config.images.behaviour,
        fresh: Fresh::default(),
    };
    make_private_dir(&host.containers_dir())?;
    make_private_dir(&host.etc_root())?;
    make_private_dir(&logs_root(instance))?;
    cgroups::prepare(&host)?;
    Ok(host)
}

/// What the kernel says of this process: nobody below it can be given more.
fn host_facts() -> anyhow::Result<oci::Host> {
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("read {path}"));
    let status = read("/proc/self/status")?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .context("read /proc/self/status: it has no CapBnd line")?;
    let oom_score_adj = read("/proc/self/oom_score_adj")?
        .trim()
        .parse()
        .context("read /proc/self/oom_score_adj")?;
    Ok(oci::Host {
        name: host_name(),
        capabilities: oci::capabilities_from_mask(mask),
        oom_score_adj,
    })
}

pub(crate) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

fn capacity(config: &Config) -> anyhow::Result<Capacity> {
    let cores = std::thread::available_parallelism().context("count cores")?;
    let total = memory_mib(Path::new("/proc/meminfo"))?;
    Ok(Capacity {
        cpu: u32::try_from(cores.get())
            .unwrap_or(u32::MAX)
            .saturating_mul(1024),
        memory: total.saturating_sub(config.reserved_memory),
        reserved_ports: config.reserved_ports.clone(),
    })
}

fn memory_mib(meminfo: &Path) -> anyhow::Result<u64> {
    let text =
        std::fs::read_to_string(meminfo).with_context(|| format!("read {}", meminfo.display()))?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok())
        .context("read /proc/meminfo: it has no MemTotal line")?;
    Ok(kib / 1024)
}

fn registration(config: &Config, capacity: &Capacity, host: &ThisHost) -> Registration {
    let ports = |set: &BTreeSet<u16>| set.iter().copied().collect();
    Registration {
        attributes: config.policy.attributes(),
        cpu: capacity.cpu,
        memory: capacity.memory,
        reserved_ports: ports(&config.reserved_ports),
        reserved_ports_udp: ports(&config.reserved_ports_udp),
        host_name: host.facts.name.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Removes old logs at the start and from time to time; never ends.
async fn expire_logs(instance: &Instance, board: &Board) {
    loop {
        let known = board
            .tasks()
            .iter()
            .map(|n| n.spec.id.to_string())
            .collect();
        let root = logs_root(instance);
        let expired = tokio::task::spawn_blocking(move || {
            logs::expire(&root, &known, SystemTime::now());
        });
        if let Err(e) = expired.await {
            tracing::error!("expire logs: {e}");
        }
        tokio::time::sleep(LOGS_EXPIRE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_join_ends_an_agent_that_has_no_tasks() {
        let (refuse, refused) = watch::channel(None);
        refuse.send_replace(Some("join: used".to_owned()));
        assert_eq!(join_refused(refused.clone(), false).await, "join: used");
        let mut busy = std::pin::pin!(join_refused(refused, true));
        assert!(futures_util::poll!(&mut busy).is_pending());
    }
}
