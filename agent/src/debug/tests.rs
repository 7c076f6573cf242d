use std::os::unix::fs::PermissionsExt;

use longshore_engine::{
    ContainerReport, PortBinding, Protocol, Status, StopCode, TaskReport, Timestamp,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::*;
use crate::board::Notice;
use crate::effects::{log_dir, logs_root};
use crate::{logs, sample};

/// A served socket in a directory of its own.
pub(super) struct Served {
    pub(super) dir: tempfile::TempDir,
    pub(super) sources: Sources,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Served {
    pub(super) fn new() -> Served {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance::named("t")
            .unwrap()
            .with_state_root(dir.path().join("state"))
            .with_run_root(dir.path().to_owned());
        let sources = Sources {
            board: Board::default(),
            tasks_cgroup: "longshore-no-such-group".to_owned(),
            images: Arc::default(),
            rules: Default::default(),
            instance,
        };
        let listener = bind(&sources.instance.agent_socket()).unwrap();
        let served = sources.clone();
        let server = tokio::spawn(async move { serve(&listener, &served).await });
        Served {
            dir,
            sources,
            server,
        }
    }

    async fn open(&self, path: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.sources.instance.agent_socket())
            .await
            .unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Status and body of one GET.
    pub(super) async fn get(&self, path: &str) -> (u16, String) {
        whole(self.open(path).await).await
    }

    /// Status and body of any request.
    pub(super) async fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let socket = self.sources.instance.agent_socket();
        let mut stream = UnixStream::connect(socket).await.unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        whole(stream).await
    }

    pub(super) async fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Puts a task with one container on the board.
    fn post(&self, status: Status) {
        self.post_with(status, "sha256:0");
    }

    /// The same, of the image with that digest.
    pub(super) fn post_with(&self, status: Status, digest: &str) {
        let mut spec = sample::task();
        spec.containers[0].environment = vec![("PASSWORD".to_owned(), "hunter2".to_owned())];
        let report = TaskReport {
            task: spec.id.clone(),
            arn: spec.arn.clone(),
            status,
            stop: (status == Status::Stopped)
                .then(|| (StopCode::UserInitiated, "enough".to_owned())),
            pull_started_at: None,
            pull_stopped_at: None,
            started_at: Some(Timestamp(1_000)),
            stopping_at: None,
            execution_stopped_at: None,
            stopped_at: None,
            containers: vec![ContainerReport {
                name: "web".to_owned(),
                runtime_id: RUNTIME_ID.to_owned(),
                status,
                exit_code: (status == Status::Stopped).then_some(143),
                reason: None,
                image_digest: Some(digest.to_owned()),
                bindings: vec![PortBinding {
                    container_port: 80,
                    host_port: 8080,
                    protocol: Protocol::Tcp,
                }],
            }],
        };
        let id = spec.id.clone();
        self.sources.board.post(&id, Some(Notice { spec, report }));
    }

    fn log(&self, texts: &[&str]) {
        use std::io::Write as _;
        let dir = log_dir(&self.sources.instance, &sample::id(1), RUNTIME_ID);
        std::fs::create_dir_all(&dir).unwrap();
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(dir.join("log.jsonl"))
            .unwrap();
        for (second, text) in texts.iter().enumerate() {
            let time = format!("2026-01-01T00:00:0{second}.5Z");
            let line = json!({"log": text, "stream": "stdout", "time": time});
            writeln!(file, "{line}").unwrap();
        }
    }
}

/// Status and body of an answer.
async fn whole(mut stream: UnixStream) -> (u16, String) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

const RUNTIME_ID: &str = "00000000000000000000000000000001-1234567890";

#[tokio::test]
async fn the_socket_is_private_and_a_stale_one_is_replaced() {
    let served = Served::new();
    let path = served.sources.instance.agent_socket();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let error = bind(&path).unwrap_err().to_string();
    assert!(error.contains("another program answers there"), "{error}");

    let stale = served.dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    bind(&stale).unwrap();
}

#[tokio::test]
async fn metadata_and_health_tell_the_agent_s_state() {
    let served = Served::new();
    served
        .sources
        .board
        .set_contact(Contact::Lost("refused".to_owned()));
    let metadata = served.json("/v1/metadata").await;
    assert_eq!(metadata["AgentConnected"], false);
    assert_eq!(metadata["DisconnectedReason"], "refused");
    assert_eq!(
        served.get("/healthz").await,
        (200, "ok\n".to_owned()),
        "tasks go on without a control plane"
    );
    served
        .sources
        .board
        .set_journal_trouble(Some("write journal: disk full".to_owned()));
    assert_eq!(served.get("/healthz").await.0, 503);
}

#[tokio::test]
async fn tasks_have_amazon_s_shape_and_show_no_environment() {
    let served = Served::new();
    served.post(Status::Running);
    let all = served.json("/v1/tasks").await;
    assert_eq!(all["Tasks"][0]["Family"], "site");
    let arn = sample::task().arn.replace(':', "%3A");
    let task = served.json(&format!("/v1/tasks?taskarn={arn}")).await;
    assert_eq!(task, all["Tasks"][0]);
    assert_eq!(task["KnownStatus"], "RUNNING");
    assert_eq!(task["DesiredStatus"], "RUNNING");
    assert_eq!(task["Version"], "3");
    assert_eq!(task["StartedAt"], "1970-01-01T00:00:01Z");
    let container = &task["Containers"][0];
    assert_eq!(container["DockerId"], RUNTIME_ID);
    assert_eq!(
        container["Ports"][0],
        json!({"ContainerPort": 80, "HostPort": 8080, "Protocol": "tcp"})
    );
    assert!(!task.to_string().contains("hunter2"));
    served.post(Status::Stopped);
    let id = sample::id(1);
    let task = served.json(&format!("/v1/tasks?taskarn={id}")).await;
    assert_eq!(task["StopCode"], "UserInitiated");
    assert_eq!(task["StoppedReason"], "enough");
    assert_eq!(task["Containers"][0]["ExitCode"], 143);
}

#[tokio::test]
async fn a_task_that_has_ended_is_found_by_its_id_until_enough_others_have() {
    let served = Served::new();
    let (first, board) = (sample::id(1), &served.sources.board);
    served.post(Status::Running);
    board.post(&first, None);
    let path = format!("/v1/tasks?taskarn={first}");
    let (status, body) = served.get(&path).await;
    assert_eq!(status, 404, "it was taken down without an end: {body}");
    assert!(body.contains("aws ecs describe-tasks"), "{body}");

    served.post(Status::Stopped);
    board.post(&first, None);
    assert_eq!(served.json(&path).await["KnownStatus"], "STOPPED");
    assert_eq!(served.json("/v1/tasks").await["Tasks"], json!([]));
    for _ in 0..100 {
        served.post(Status::Stopped);
        let last = board.task(&first).unwrap();
        let mut spec = last.spec.clone();
        spec.id = sample::id(2);
        let (other, report) = (spec.id.clone(), last.report.clone());
        board.post(&other, Some(Notice { spec, report }));
        board.post(&other, None);
    }
    served.post(Status::Running);
    board.post(&first, None);
    assert_eq!(served.get(&path).await.0, 404);
}

#[tokio::test]
async fn what_is_not_there_or_not_understood_is_told_as_json() {
    let served = Served::new();
    served.post(Status::Running);
    let unknown = sample::id(9);
    let known = sample::id(1);
    let cases = [
        ("/v1/stop".to_owned(), 404, "is not served"),
        ("/v1/tasks?taskarn=xyz".to_owned(), 400, "32 lowercase hex"),
        (
            format!("/v1/tasks?taskarn={unknown}"),
            404,
            "is not on this host",
        ),
        ("/v1/tasks?task=1".to_owned(), 400, "is not known here"),
        ("/v1/logs".to_owned(), 400, "say taskarn="),
        (
            format!("/v1/logs?taskarn={known}&container=db"),
            400,
            "name one of: web",
        ),
        (
            format!("/v1/logs?taskarn={known}&tail=many"),
            400,
            "use 0 to",
        ),
        (
            format!("/v1/logs?taskarn={known}&since=then"),
            400,
            "use Unix seconds",
        ),
    ];
    for (path, status, why) in cases {
        let (found, body) = served.get(&path).await;
        assert_eq!(found, status, "{path}: {body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        let error = body["Error"].as_str().unwrap();
        assert!(error.contains(why), "{path}: {error}");
    }
}

/// The payload of a chunked body, for bodies of small chunks.
pub(super) fn unchunked(body: &str) -> String {
    let mut lines = body.split("\r\n");
    let mut text = String::new();
    while let Some(length) = lines.next().and_then(|l| usize::from_str_radix(l, 16).ok()) {
        if length == 0 {
            break;
        }
        text.push_str(lines.next().unwrap());
    }
    text
}

#[tokio::test]
async fn logs_are_cut_by_tail_and_since() {
    let served = Served::new();
    served.post(Status::Running);
    served.log(&["a\n", "b\n", "c\n"]);
    let id = sample::id(1);
    let logs = |query: &str| {
        let path = format!("/v1/logs?taskarn={id}{query}");
        let served = &served;
        async move { unchunked(&served.get(&path).await.1) }
    };
    assert_eq!(logs("").await, "a\nb\nc\n");
    assert_eq!(logs("&container=web&tail=2").await, "b\nc\n");
    assert_eq!(logs("&tail=0").await, "");
    assert_eq!(logs("&since=2026-01-01T00:00:01Z").await, "b\nc\n");
    assert_eq!(logs("&since=1767225602").await, "c\n");
    assert_eq!(
        logs("&since=1767225602&format=jsonl").await,
        "{\"log\":\"c\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:02.5Z\"}\n"
    );
}

#[tokio::test]
async fn following_ends_when_the_container_has_ended_and_all_is_read() {
    let served = Served::new();
    served.post(Status::Running);
    served.log(&["old\n"]);
    let id = sample::id(1);
    let path = format!("/v1/logs?taskarn={id}&follow=true");
    let mut stream = served.open(&path).await;
    let mut text = String::new();
    let whole = async {
        while !text.contains("old\n") {
            text.push(char::from(stream.read_u8().await.unwrap()));
        }
        served.log(&["new\n", "last\n"]);
        served.post(Status::Stopped);
        stream.read_to_string(&mut text).await.unwrap();
    };
    let read = tokio::time::timeout(Duration::from_secs(20), whole).await;
    read.expect("the stream ends");
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(unchunked(body), "old\nnew\nlast\n");
}

#[tokio::test]
async fn logs_of_a_forgotten_task_are_found_by_name() {
    let served = Served::new();
    served.log(&["kept\n"]);
    let dir = logs_root(&served.sources.instance).join(sample::id(1).as_str());
    let index = logs::Index::from([("web".to_owned(), RUNTIME_ID.to_owned())]);
    logs::write_index(&dir, &index).unwrap();
    let id = sample::id(1);
    let path = format!("/v1/logs?taskarn={id}&container=web&follow=true");
    assert_eq!(unchunked(&served.get(&path).await.1), "kept\n");
}
