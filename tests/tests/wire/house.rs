//! A control plane and its agents' links in this process, over real TLS on loopback.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use longshore_agent::link::{FromControl, Link, LinkConfig, Registration, Wish};
use longshore_control::model::{
    self, Cluster, Container, Definition, Desired, Instance, Resources, Status, Task,
};
use longshore_control::south::{self, Config, mint_token};
use longshore_control::store::{RedbStore, Store};
use longshore_engine::{TaskId, TaskReport, TaskSpec, Timestamp};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Nothing here takes this long unless it is broken.
const BROKEN: Duration = Duration::from_secs(30);

/// What all tests of this process have logged, at every level.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_writer(move || writer.clone())
            .init();
        log
    })
}

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A store with the cluster `default`. From here on everything is logged.
pub(crate) fn store(directory: &Path) -> Arc<RedbStore> {
    log();
    let store = RedbStore::open(directory).unwrap();
    let cluster = Cluster {
        name: "default".into(),
        active: true,
        tags: vec![],
        settings: vec![],
    };
    put(&store, "cluster/default", &cluster);
    Arc::new(store)
}

pub(crate) fn put<T: serde::Serialize>(store: &dyn Store, key: &str, record: &T) {
    store.transact(&[], &[model::put(key, record)]).unwrap();
}

/// A control plane in a runtime of its own, so that it can be killed.
pub(crate) struct Control {
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
    stop: watch::Sender<bool>,
}

impl Control {
    pub(crate) fn start(store: Arc<RedbStore>) -> Control {
        Control::with(store, "127.0.0.1:0".parse().unwrap(), |_| {})
    }

    /// With its configuration changed. On an address that a killed one has just left, too.
    pub(crate) fn with(
        store: Arc<RedbStore>,
        listen: SocketAddr,
        change: impl FnOnce(&mut Config),
    ) -> Control {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (stop, shutdown) = watch::channel(false);
        let mut config = Config::new("us-east-1", "000000000000");
        change(&mut config);
        let serve = async {
            loop {
                let serving = south::serve(store.clone(), config.clone(), listen, shutdown.clone());
                match serving.await {
                    // A neighbour's connection may hold the port for a moment.
                    Err(error) if error.to_string().contains("in use") => {
                        tokio::task::yield_now().await;
                    }
                    served => return served.unwrap().address(),
                }
            }
        };
        let address = std::thread::scope(|scope| {
            let served = scope.spawn(|| runtime.block_on(timeout_of(serve)));
            served.join().unwrap()
        });
        Control {
            address,
            runtime: Some(runtime),
            stop,
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("https://{}", self.address)
    }

    /// As kill -9 would: no goodbye, every connection and task cut off.
    pub(crate) fn kill(mut self) -> SocketAddr {
        let runtime = self.runtime.take().unwrap();
        let killed = std::thread::spawn(move || runtime.shutdown_timeout(BROKEN));
        killed.join().unwrap();
        self.address
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A host: an identity directory and, while it is up, a link.
pub(crate) struct Host {
    /// There for as long as a link may write its identity to it.
    directory: Arc<tempfile::TempDir>,
    pub(crate) config: LinkConfig,
}

impl Host {
    pub(crate) fn new(control: &Control, token: Option<String>) -> Host {
        let directory = tempfile::tempdir().unwrap();
        let config = LinkConfig {
            endpoint: control.endpoint(),
            token,
            identity_dir: directory.path().join("identity"),
            registration: Registration {
                attributes: vec![("ecs.os-type".into(), Some("linux".into()))],
                cpu: 2048,
                memory: 4096,
                reserved_ports: vec![22],
                reserved_ports_udp: vec![],
                host_name: "host".into(),
                agent_version: "1.2.3".into(),
            },
            last_accepted: None,
            held: vec![],
        };
        Host {
            directory: Arc::new(directory),
            config,
        }
    }

    /// A new host with a new token.
    pub(crate) fn fresh(control: &Control, store: &RedbStore) -> Host {
        Host::new(control, Some(mint_token(store, "default", HOUR).unwrap()))
    }

    pub(crate) fn up(&self) -> Shell {
        let (link, events) = Link::start(self.config.clone());
        Shell {
            link,
            events,
            seen: Vec::new(),
            _directory: self.directory.clone(),
        }
    }

    pub(crate) fn identity(&self) -> PathBuf {
        self.config.identity_dir.clone()
    }
}

/// What stands for the agent's shell.
pub(crate) struct Shell {
    pub(crate) link: Link,
    pub(crate) events: mpsc::Receiver<FromControl>,
    /// What came so far, for the report of a test that waits in vain.
    seen: Vec<String>,
    _directory: Arc<tempfile::TempDir>,
}

impl Shell {
    pub(crate) async fn next(&mut self) -> FromControl {
        let Ok(next) = timeout(BROKEN, self.events.recv()).await else {
            let log = log().text();
            let ours: Vec<&str> = log.lines().filter(|l| l.contains("longshore")).collect();
            panic!("no event came after {:#?}; all logs: {ours:#?}", self.seen);
        };
        let next = next.expect("an open link");
        self.seen.push(format!("{next:?}"));
        next
    }

    /// The next event that `pick` takes.
    pub(crate) async fn until<T>(&mut self, pick: impl Fn(&FromControl) -> Option<T>) -> T {
        loop {
            if let Some(picked) = pick(&self.next().await) {
                return picked;
            }
        }
    }

    /// Waits for a session; the instance's id.
    pub(crate) async fn connected(&mut self) -> String {
        self.until(|event| match event {
            FromControl::Connected { instance_arn, .. } => {
                Some(instance_arn.rsplit('/').next().unwrap().to_owned())
            }
            _ => None,
        })
        .await
    }

    /// Waits for a reason not to be connected.
    pub(crate) async fn disconnected(&mut self) -> String {
        self.until(|event| match event {
            FromControl::Disconnected { why } => Some(why.clone()),
            _ => None,
        })
        .await
    }

    /// Waits for a set that fits, and acknowledges all of it.
    pub(crate) async fn desired(&mut self, fits: impl Fn(&[Wish]) -> bool) -> (u64, Vec<Wish>) {
        let (generation, wishes) = self
            .until(|event| match event {
                FromControl::Desired {
                    generation, wishes, ..
                } if fits(wishes) => Some((*generation, wishes.clone())),
                _ => None,
            })
            .await;
        for wish in &wishes {
            self.link.acknowledge(&wish.spec.id, generation, Ok(()));
        }
        (generation, wishes)
    }
}

async fn timeout_of<T>(work: impl Future<Output = T>) -> T {
    timeout(BROKEN, work).await.expect("it to end")
}

pub(crate) fn id(n: u8) -> TaskId {
    TaskId::try_from(format!("{n:032x}")).unwrap()
}

pub(crate) fn key(n: u8) -> String {
    format!("task/default/{}", id(n))
}

/// Registers `web:REVISION`.
pub(crate) fn define(store: &dyn Store, revision: u32, network_mode: &str) {
    let definition = Definition {
        family: "web".into(),
        revision,
        active: true,
        registered_at: 1,
        registered_by: String::new(),
        deregistered_at: None,
        document: json!({
            "family": "web", "networkMode": network_mode, "cpu": "256",
            "containerDefinitions": [{
                "name": "main", "image": "busybox:1", "essential": true, "cpu": 0, "memory": 64,
                "environment": [{"name": "A", "value": "1"}]
            }]
        }),
        tags: vec![],
    };
    put(
        store,
        &format!("definition/web/{revision:010}"),
        &definition,
    );
}

/// Places task `n` of `web:REVISION` on the instance.
pub(crate) fn place(store: &dyn Store, n: u8, revision: u32, instance: &str) {
    put(store, &key(n), &task(n, revision, instance));
}

pub(crate) fn task(n: u8, revision: u32, instance: &str) -> Task {
    Task {
        id: id(n).to_string(),
        cluster: "default".into(),
        family: "web".into(),
        revision,
        instance: instance.into(),
        desired: Desired::Running,
        status: Status::Pending,
        overrides: json!({"containerOverrides": [{"name": "main", "command": ["true"]}]}),
        ephemeral_storage: None,
        group: "family:web".into(),
        started_by: None,
        tags: vec![],
        holds: Resources::default(),
        stop_code: None,
        stopped_reason: None,
        version: 1,
        created_at: 1,
        pull_started_at: None,
        pull_stopped_at: None,
        started_at: None,
        stopping_at: None,
        execution_stopped_at: None,
        stopped_at: None,
        containers: vec![Container {
            uuid: "u".into(),
            name: "main".into(),
            image: "busybox:1".into(),
            image_digest: None,
            runtime_id: None,
            status: Status::Pending,
            exit_code: None,
            reason: None,
            bindings: vec![],
            cpu: 0,
            memory: Some(64),
            memory_reservation: None,
        }],
    }
}

pub(crate) fn report(spec: &TaskSpec, status: longshore_engine::Status) -> TaskReport {
    let stopped = status == longshore_engine::Status::Stopped;
    TaskReport {
        task: spec.id.clone(),
        arn: spec.arn.clone(),
        status,
        stop: stopped.then(|| {
            let code = longshore_engine::StopCode::EssentialContainerExited;
            (code, "Essential container in task exited".to_owned())
        }),
        pull_started_at: None,
        pull_stopped_at: None,
        started_at: Some(Timestamp(10)),
        stopping_at: None,
        execution_stopped_at: None,
        stopped_at: stopped.then_some(Timestamp(20)),
        containers: vec![longshore_engine::ContainerReport {
            name: "main".into(),
            runtime_id: format!("{}-0000000001", spec.id),
            status,
            exit_code: stopped.then_some(7),
            reason: None,
            image_digest: None,
            bindings: vec![],
        }],
    }
}

pub(crate) fn read(store: &dyn Store, n: u8) -> Option<Task> {
    model::read::<Task>(store, &key(n))
        .unwrap()
        .map(|t| t.record)
}

pub(crate) fn instance(store: &dyn Store, id: &str) -> Instance {
    let key = format!("instance/default/{id}");
    model::read::<Instance>(store, &key)
        .unwrap()
        .unwrap()
        .record
}

/// Waits for a change of the store after which `holds`.
pub(crate) async fn until(store: &dyn Store, holds: impl Fn(&dyn Store) -> bool) {
    let mut changes = store.watch();
    let wait = async {
        while !holds(store) {
            changes.recv().await.ok();
        }
    };
    timeout(BROKEN, wait).await.expect("the store to change");
}
