//! The effects on a real kernel: an image from a registry on loopback, real containers, and a host that
//! shows no trace afterwards. Each test has network and mount namespaces, a cgroup parent and roots of
//! its own.

mod disk;
mod monitors;
mod registry;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use longshore_engine::{Engine, NetworkMode, PortMapping, Protocol, Status, TaskSpec};
use longshore_image::{Prune, Registries};
use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use self::registry::Registry;
use super::*;
use crate::board::Notice;
use crate::driver::now;
use crate::driver::tests::{Agent, Told, capacity};
use crate::journal::Journal;
use crate::link::{FromControl, Wish};
use crate::logs::Reader;
use crate::{cgroups, oci, recover, sample};

/// Runs `test` on a thread with network and mount namespaces of its own; the threads of its tokio runtime
/// are born in them.
fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Ground) -> F + Send + 'static) {
    let body = move || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let ground = Ground::new().await;
            test(ground).await;
        });
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

/// What outlives an agent: roots, registry, and the cgroup parent, which is cleared at the end.
struct Ground {
    dir: tempfile::TempDir,
    registry: Registry,
    cgroup: String,
}

impl Drop for Ground {
    fn drop(&mut self) {
        let hierarchy = Hierarchy::of_host().unwrap();
        for path in [format!("{}/task", self.cgroup), self.cgroup.clone()] {
            let group = hierarchy.group(&path).unwrap();
            if group.exists() {
                drop(group.kill(Duration::from_secs(10)));
                drop(group.remove());
            }
        }
    }
}

impl Ground {
    async fn new() -> Ground {
        let dir = tempfile::tempdir().unwrap();
        let unique = dir.path().file_name().unwrap().to_string_lossy();
        Ground {
            cgroup: format!("longshore-test-{}", unique.trim_start_matches('.')),
            registry: Registry::start().await,
            dir,
        }
    }

    fn instance(&self) -> Instance {
        Instance::named("test")
            .unwrap()
            .with_state_root(self.dir.path().join("state"))
            .with_run_root(self.dir.path().join("run"))
    }

    async fn host(&self) -> ThisHost {
        let instance = self.instance();
        instance.make_roots().unwrap();
        let network = longshore_network::Config {
            run_root: instance.run_root().to_owned(),
            prefix: instance.interface_prefix(),
            table: instance.nft_table(),
            subnet: instance.subnet(),
            reserved_ports: BTreeSet::new(),
        };
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let bounding = status.lines().find_map(|l| l.strip_prefix("CapBnd:"));
        let mask = u64::from_str_radix(bounding.unwrap().trim(), 16).unwrap();
        let host = ThisHost {
            policy: HostPolicy::default(),
            facts: oci::Host {
                name: "host".to_owned(),
                capabilities: oci::capabilities_from_mask(mask),
                oom_score_adj: 0,
            },
            images: Store::open(&instance.state_root().join("images"), Registries::default())
                .map(Arc::new)
                .unwrap(),
            network: Network::open(network).await.unwrap(),
            runtime: Runtime::open(&runtime_binary()).unwrap(),
            hierarchy: Hierarchy::of_host().unwrap(),
            cgroup_parent: self.cgroup.clone(),
            pulls: PullTurns::default(),
            pull_behaviour: PullBehaviour::Default,
            fresh: Fresh::default(),
            instance,
        };
        cgroups::prepare(&host).unwrap();
        host
    }

    /// An agent as `assembly` makes it, but for its link.
    async fn agent(&self) -> Agent<ThisHost> {
        let host = Arc::new(self.host().await);
        let path = host.instance.state_root().join("agent.redb");
        let (journal, mut found) = Journal::open(&path).unwrap();
        let records = std::mem::take(&mut found.records);
        let mut engine = Engine::restore(capacity(), records);
        let recovered = recover::recover(&host, &engine, &found).await;
        for event in recovered.events {
            engine.handle(now(), event);
        }
        Agent::drive(engine, journal, host, found.accepted, recovered.alive)
    }

    /// A task of one container that runs a shell script.
    fn task(&self, n: u32, script: &str) -> TaskSpec {
        let mut task = TaskSpec {
            id: sample::id(n),
            network: NetworkMode::None,
            ..sample::task()
        };
        let container = &mut task.containers[0];
        container.image = self.registry.image();
        container.command = Some(["sh", "-c", script].map(str::to_owned).into());
        // A shell that is pid 1 takes no SIGTERM unless it asks for it: SIGKILL comes soon.
        container.stop_timeout = Duration::from_secs(1);
        task
    }

    /// Everything that could be left behind, as names.
    async fn traces(&self, host: &ThisHost) -> Vec<String> {
        let mut found = Vec::new();
        let tasks = host.hierarchy.group(&host.tasks_cgroup()).unwrap();
        found.extend(tasks.processes().unwrap().iter().map(ToString::to_string));
        for n in 1..=3 {
            if host.task_group(&sample::id(n)).unwrap().exists() {
                found.push(format!("cgroup of task {n}"));
            }
        }
        let mut dirs = vec![host.containers_dir(), host.etc_root()];
        dirs.push(host.instance.run_root().join("netns"));
        for dir in dirs {
            let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            found.extend(entries.map(|e| e.path().display().to_string()));
        }
        found.extend(host.network.attached());
        found.extend(host.images.roots().unwrap());
        found.extend(host.images.disks().unwrap());
        found
    }
}

/// The programs under test, as for the tests of the whole house.
fn runtime_binary() -> PathBuf {
    let stage = std::env::var_os("LONGSHORE_STAGE").map(PathBuf::from);
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/stage/dev");
    let binary = stage.unwrap_or(ours).join("longshore-runtime");
    assert!(
        binary.exists(),
        "{} is not there; run scripts/build dev first",
        binary.display()
    );
    binary
}

fn run(spec: TaskSpec) -> Wish {
    Wish { spec, stop: None }
}

fn stop(spec: TaskSpec) -> Wish {
    let stop = Some("enough".to_owned());
    Wish { spec, stop }
}

async fn reaches(agent: &mut Agent<ThisHost>, n: u32, status: Status) -> Arc<Notice> {
    agent.until(&Told::Report(sample::id(n), status)).await;
    agent.board.task(&sample::id(n)).unwrap()
}

async fn forgets(agent: &mut Agent<ThisHost>, n: u32) {
    let stored = FromControl::ReportStored(sample::id(n));
    agent.control.send(stored).await.unwrap();
    agent.until(&Told::Forget(sample::id(n))).await;
}

fn log_of(host: &ThisHost, notice: &Notice) -> String {
    let id = &notice.report.containers[0].runtime_id;
    let mut reader = Reader::new(&log_dir(&host.instance, &notice.spec.id, id));
    std::iter::from_fn(|| reader.next_line().unwrap())
        .map(|line| line.text)
        .collect()
}

/// Waits until the program has said these words.
async fn says(host: &ThisHost, notice: &Notice, words: &str) {
    let patience = Instant::now() + Duration::from_secs(20);
    while !log_of(host, notice).contains(words) {
        assert!(Instant::now() < patience, "{:?}", log_of(host, notice));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
#[ignore = "needs root"]
fn a_task_runs_limited_and_leaves_nothing() {
    on_a_host(|ground| async move {
        let mut agent = ground.agent().await;
        let script = "echo $HOSTNAME $A; id -u; cat /etc/hostname; \
                      grep -c . /proc/self/mountinfo >/dev/null; ls /sys/class/net; exit 3";
        let mut task = ground.task(1, script);
        task.containers[0].environment = vec![("A".to_owned(), "b c".to_owned())];
        task.containers[0].user = Some("7:8".to_owned());
        agent.want("s", 1, vec![run(task)]).await;
        let notice = reaches(&mut agent, 1, Status::Stopped).await;
        let container = &notice.report.containers[0];
        assert_eq!(container.exit_code, Some(3), "{:?}", notice.report);
        assert_eq!(
            log_of(&agent.world, &notice),
            "000000000000 b c\n7\n000000000000\nlo\n"
        );
        forgets(&mut agent, 1).await;
        assert_eq!(ground.traces(&agent.world).await, Vec::<String>::new());
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn a_bridged_task_answers_on_its_port_and_stops_when_told() {
    on_a_host(|ground| async move {
        let mut agent = ground.agent().await;
        let script = "trap 'exit 5' TERM; nc -ll -p 80 -e echo hello & echo up; \
                      while :; do sleep 0.05; done";
        let mut task = ground.task(1, script);
        task.network = NetworkMode::Bridge;
        task.containers[0].stop_timeout = Duration::from_secs(20);
        task.containers[0].ports = vec![PortMapping {
            container_port: 80,
            host_port: None,
            protocol: Protocol::Tcp,
        }];
        agent.want("s", 1, vec![run(task.clone())]).await;
        let notice = reaches(&mut agent, 1, Status::Running).await;
        let bindings = &notice.report.containers[0].bindings;
        assert_eq!(bindings[0].container_port, 80);
        says(&agent.world, &notice, "up").await;
        let port = bindings[0].host_port;
        let answer = tokio::task::spawn_blocking(move || answer_of(port));
        assert_eq!(answer.await.unwrap(), "hello\n");
        let group = format!("{}/{}", agent.world.tasks_cgroup(), task.id);
        let limits = crate::statistics::Statistics::of(&group);
        assert_eq!(limits.cpu_limit, Some(256));
        assert_eq!(limits.memory_limit_bytes, Some(128 << 20));
        assert_eq!(limits.processes_limit, Some(4096));
        assert!(limits.memory_bytes > Some(0) && limits.processes > Some(0));

        agent.want("s", 2, vec![stop(task)]).await;
        let notice = reaches(&mut agent, 1, Status::Stopped).await;
        assert_eq!(notice.report.containers[0].exit_code, Some(5));
        assert_eq!(ground.traces(&agent.world).await, Vec::<String>::new());
        agent.stop().await;
    });
}

/// What a server on loopback says; it may need a moment to listen.
fn answer_of(port: u16) -> String {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let mut text = String::new();
        let tried = std::net::TcpStream::connect(("127.0.0.1", port))
            .and_then(|mut stream| stream.read_to_string(&mut text));
        match tried {
            Ok(_) if !text.is_empty() => return text,
            _ => assert!(Instant::now() < patience, "{tried:?}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "needs root"]
fn containers_outlive_the_agent_and_their_ends_are_reported() {
    on_a_host(|ground| async move {
        let mut agent = ground.agent().await;
        let waits = |n: u32| {
            ground.task(
                n,
                "trap 'exit 9' USR1; echo up; while :; do sleep 0.02; done",
            )
        };
        let (first, second) = (waits(1), waits(2));
        agent
            .want("s", 1, vec![run(first.clone()), run(second.clone())])
            .await;
        let one = reaches(&mut agent, 1, Status::Running).await;
        // Both may have been told before: the board has the newest.
        let patience = Instant::now() + Duration::from_secs(20);
        while agent
            .board
            .task(&sample::id(2))
            .is_none_or(|n| n.report.status != Status::Running)
        {
            assert!(Instant::now() < patience);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        says(&agent.world, &one, "up").await;
        let host = Arc::clone(&agent.world);
        agent.stop().await;

        let id = &one.report.containers[0].runtime_id;
        let container = host.container(id).unwrap();
        container.signal(10).unwrap();
        let mut alarm: UnixStream = container.subscribe().unwrap();
        alarm
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        while alarm.read(&mut [0; 16]).unwrap() > 0 {}
        drop(host);

        let mut agent = ground.agent().await;
        let one = reaches(&mut agent, 1, Status::Stopped).await;
        assert_eq!(one.report.containers[0].exit_code, Some(9));
        let two = agent.board.task(&sample::id(2)).unwrap();
        assert_eq!(two.report.status, Status::Running, "{:?}", two.report);
        agent.want("s", 2, vec![stop(second)]).await;
        reaches(&mut agent, 2, Status::Stopped).await;
        assert_eq!(ground.traces(&agent.world).await, Vec::<String>::new());
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn what_no_record_knows_is_removed_at_the_start() {
    on_a_host(|ground| async move {
        let mut agent = ground.agent().await;
        let task = ground.task(1, "while :; do sleep 1; done");
        agent.want("s", 1, vec![run(task)]).await;
        reaches(&mut agent, 1, Status::Running).await;
        let host = Arc::clone(&agent.world);
        agent.stop().await;
        drop(host);
        std::fs::remove_file(ground.instance().state_root().join("agent.redb")).unwrap();

        let agent = ground.agent().await;
        assert_eq!(ground.traces(&agent.world).await, Vec::<String>::new());
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn a_task_s_image_is_collected_only_when_the_task_is_gone() {
    on_a_host(|ground| async move {
        let mut agent = ground.agent().await;
        let task = ground.task(1, "echo up; while :; do sleep 0.1; done");
        agent.want("s", 1, vec![run(task.clone())]).await;
        let notice = reaches(&mut agent, 1, Status::Running).await;
        says(&agent.world, &notice, "up").await;
        let digest = notice.report.containers[0].image_digest.clone().unwrap();
        let collect = async |agent: &Agent<ThisHost>| {
            let (host, board) = (Arc::clone(&agent.world), agent.board.clone());
            let collected = tokio::task::spawn_blocking(move || {
                host.fresh.review(&board);
                let held = || crate::upkeep::held(&board);
                host.images.prune(Prune::Unused, &[], &held, false).unwrap()
            });
            collected.await.unwrap()
        };
        assert_eq!(collect(&agent).await.in_use, 1);
        // Also after the agent was away, by what its journal says.
        let host = Arc::clone(&agent.world);
        agent.stop().await;
        drop(host);
        let mut agent = ground.agent().await;
        reaches(&mut agent, 1, Status::Running).await;
        assert_eq!(collect(&agent).await.in_use, 1);
        assert!(agent.world.images.image(&digest).unwrap().is_some());
        agent.want("s", 2, vec![stop(task)]).await;
        reaches(&mut agent, 1, Status::Stopped).await;
        let collected = collect(&agent).await;
        assert_eq!((collected.in_use, collected.images.len()), (0, 1));
        assert!(agent.world.images.image(&digest).unwrap().is_none());
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn an_unreadable_journal_costs_no_container() {
    on_a_host(|ground| async move {
        let mut agent = ground.agent().await;
        let task = ground.task(1, "echo up; while :; do sleep 0.1; done");
        agent.want("s", 1, vec![run(task.clone())]).await;
        let before = reaches(&mut agent, 1, Status::Running).await;
        says(&agent.world, &before, "up").await;
        let host = Arc::clone(&agent.world);
        agent.stop().await;
        drop(host);
        let journal = ground.instance().state_root().join("agent.redb");
        let mut file = std::fs::File::create(journal).unwrap();
        file.write_all(&[b'x'; 5000]).unwrap();

        let mut agent = ground.agent().await;
        agent.want("s", 2, vec![run(task.clone())]).await;
        let after = reaches(&mut agent, 1, Status::Running).await;
        assert_eq!(
            log_of(&agent.world, &after),
            "up\n",
            "the same container goes on"
        );
        agent.want("s", 3, vec![stop(task)]).await;
        reaches(&mut agent, 1, Status::Stopped).await;
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn an_agent_without_a_control_plane_answers_and_ends_when_told() {
    on_a_host(|ground| async move {
        let mut config = crate::Config::new(
            ground.instance(),
            "https://127.0.0.1:1".to_owned(),
            runtime_binary(),
        );
        config.cgroup_parent = Some(ground.cgroup.clone());
        // Whole as a token is; without one a host that never joined has nothing to wait for.
        config.token = Some(format!("lsj1.{}", "A".repeat(86)));
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let agent = tokio::spawn(crate::run(config.clone(), stopped.clone()));
        let socket = ground.instance().agent_socket();
        let metadata = tokio::task::spawn_blocking(move || ask(&socket, "/v1/metadata"));
        let metadata = metadata.await.unwrap();
        assert!(metadata.contains(r#""AgentConnected":false"#), "{metadata}");
        let second = crate::run(config, stopped).await.unwrap_err().to_string();
        assert!(
            second.contains("another agent of this instance is running"),
            "{second}"
        );
        stop.send_replace(true);
        agent.await.unwrap().unwrap();
    });
}

/// One GET on the debug socket, which may need a moment to be there.
fn ask(socket: &Path, path: &str) -> String {
    let patience = Instant::now() + Duration::from_secs(20);
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(e) => assert!(Instant::now() < patience, "{e}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
#[ignore = "needs root"]
fn memory_beyond_the_limit_is_killed_and_named() {
    on_a_host(|ground| async move {
        let mut agent = ground.agent().await;
        let mut task = ground.task(1, "x=$(dd if=/dev/zero bs=1M count=200 | tr '\\0' x)");
        task.containers[0].memory = Some(8);
        task.containers[0].memory_reservation = None;
        // The shell itself is the one that grows, and the kernel's choice.
        agent.want("s", 1, vec![run(task)]).await;
        let notice = reaches(&mut agent, 1, Status::Stopped).await;
        let container = &notice.report.containers[0];
        assert_eq!(container.exit_code, Some(137), "{:?}", notice.report);
        let reason = container.reason.as_deref().unwrap();
        assert!(reason.starts_with("OutOfMemoryError"), "{reason}");
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn bad_tasks_are_told_by_name_and_leave_nothing() {
    on_a_host(|ground| async move {
        let agent = ground.agent().await;
        let mut user = ground.task(1, "true");
        user.containers[0].user = Some("nobody-knows".to_owned());
        let mut program = ground.task(2, "true");
        program.containers[0].command = Some(vec!["/no/such/program".to_owned()]);
        let mut image = ground.task(3, "true");
        image.containers[0].image = image.containers[0].image.replace(":1", ":missing");
        agent
            .want("s", 1, vec![run(user), run(program), run(image)])
            .await;
        let expected = [
            (1, "CannotCreateContainerError", "nobody-knows"),
            (2, "Cannot", "/no/such/program"),
            (3, "CannotPullContainerError", "missing"),
        ];
        let patience = Instant::now() + Duration::from_secs(60);
        for (n, name, subject) in expected {
            let notice = loop {
                let notice = agent.board.task(&sample::id(n));
                if let Some(notice) = notice.filter(|n| n.report.status == Status::Stopped) {
                    break notice;
                }
                assert!(Instant::now() < patience, "task {n} has not stopped");
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            let reason = notice.report.containers[0]
                .reason
                .clone()
                .unwrap_or_default();
            assert!(
                reason.starts_with(name) && reason.contains(subject),
                "{reason}"
            );
        }
        assert_eq!(ground.traces(&agent.world).await, Vec::<String>::new());
        agent.stop().await;
    });
}
