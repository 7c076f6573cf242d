//! A control plane on a free port with hosts that are only records, and a client that signs.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use longshore_control::model::{self, Instance, Resources, Task};
use longshore_control::store::Store;
use longshore_control::{Config, ControlPlane, now, sigv4};
use serde_json::Value;
use sha2::Digest;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) const REGION: &str = "us-east-1";
pub(crate) const ACCOUNT: &str = "123456789012";
const TARGET: &str = "AmazonEC2ContainerServiceV20141113";

/// A served control plane. It ends with the test's runtime.
pub(crate) struct Plane {
    pub(crate) address: SocketAddr,
    pub(crate) key: (String, String),
    pub(crate) store: Arc<dyn Store>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl Plane {
    pub(crate) fn start(state: &Path) -> Plane {
        let plane = ControlPlane::open(config(state)).unwrap();
        let (stop, shutdown) = watch::channel(false);
        let (id, secret) = plane.access_key();
        Plane {
            address: plane.api_address(),
            key: (id.to_owned(), secret.to_owned()),
            store: plane.store(),
            stop,
            serving: tokio::spawn(plane.serve(shutdown)),
        }
    }

    /// Stops it and waits until the store is free again.
    pub(crate) async fn stop(self) {
        self.stop.send(true).unwrap();
        self.serving.await.unwrap().unwrap();
        // Watchers of the store end on their own; the file is free when the last one has let go.
        let free = async {
            while Arc::strong_count(&self.store) > 1 {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), free).await;
        waited.expect("somebody holds the store after the end");
    }

    pub(crate) fn add_host(&self, number: u8, cpu: u32, memory: u64) -> String {
        let id = format!("{number:032x}");
        let instance = Instance {
            id: id.clone(),
            cluster: "default".into(),
            connected: true,
            registered_at: now(),
            total: Resources {
                cpu,
                memory,
                ports: vec![22],
                ports_udp: vec![],
            },
            attributes: vec![("ecs.capability.task-cpu-mem-limit".into(), None)],
            agent_version: "0.1.0".into(),
            host_name: format!("host-{number}"),
            key_hash: String::new(),
            version: 1,
        };
        let write = model::put(format!("instance/default/{id}"), &instance);
        self.store.transact(&[], &[write]).unwrap();
        id
    }

    /// What an agent's report does.
    pub(crate) fn report(&self, id: &str, change: impl Fn(&mut Task)) {
        let key = format!("task/default/{id}");
        model::update(self.store.as_ref(), &key, |task: &mut Task| {
            change(task);
            task.version += 1;
        })
        .unwrap()
        .unwrap();
    }

    pub(crate) fn tasks(&self) -> Vec<Task> {
        let tasks = model::all::<Task>(self.store.as_ref(), "task/default/").unwrap();
        tasks.into_iter().map(|stored| stored.record).collect()
    }

    /// A signed call: HTTP status and body.
    pub(crate) async fn call(&self, operation: &str, body: Value) -> (u16, Value) {
        let request = self.signed(&format!("{TARGET}.{operation}"), body.to_string());
        self.send(request).await
    }

    /// A call that must succeed.
    pub(crate) async fn ok(&self, operation: &str, body: Value) -> Value {
        let (status, body) = self.call(operation, body).await;
        assert_eq!(status, 200, "{operation}: {body}");
        body
    }

    /// A call that must be refused: `NAME: MESSAGE`.
    pub(crate) async fn refused(&self, operation: &str, body: Value) -> String {
        let (status, body) = self.call(operation, body).await;
        assert_eq!(status, 400, "{operation}: {body}");
        error(&body)
    }

    pub(crate) fn signed(&self, target: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        let body = body.into();
        let date = date(now());
        let scope = format!("{}/{REGION}/ecs/aws4_request", &date[..8]);
        let request = Request::post("/")
            .header("host", self.address.to_string())
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-date", &date)
            .header("x-amz-target", target);
        let (mut parts, body) = request.body(body).unwrap().into_parts();
        let headers = ["content-type", "host", "x-amz-date", "x-amz-target"].map(String::from);
        let hash = hex::encode(sha2::Sha256::digest(&body));
        let canonical = sigv4::canonical_request(&parts, &headers, &hash);
        let signature = sigv4::signature(&self.key.1, &date, &scope, &canonical);
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={}, Signature={}",
            self.key.0,
            headers.join(";"),
            hex::encode(signature)
        );
        let authorization = authorization.parse().unwrap();
        parts.headers.insert("authorization", authorization);
        Request::from_parts(parts, Full::new(body))
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> (u16, Value) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        assert!(response.headers().contains_key("x-amzn-requestid"));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        drop(sender);
        driver.abort();
        (status, serde_json::from_slice(&body).unwrap())
    }
}

/// `20150830T123600Z`, by Howard Hinnant's civil_from_days.
fn date(millis: u64) -> String {
    let seconds = millis / 1000;
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * march + 2) / 5 + 1, (march + 2) % 12 + 1);
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!(
        "{year:04}{month:02}{day:02}T{hour:02}{minute:02}{:02}Z",
        seconds % 60
    )
}

pub(crate) fn error(body: &Value) -> String {
    format!(
        "{}: {}",
        body["__type"].as_str().unwrap(),
        body["message"].as_str().unwrap()
    )
}

pub(crate) fn config(state: &Path) -> Config {
    Config {
        state_dir: state.to_owned(),
        api_listen: "127.0.0.1:0".parse().unwrap(),
        rpc_listen: "127.0.0.1:0".parse().unwrap(),
        region: REGION.into(),
        account: ACCOUNT.into(),
        default_cluster: "default".into(),
        admin_socket: None,
    }
}
