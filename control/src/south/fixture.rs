//! A store with a cluster and some tasks, for the tests of this room.

use serde_json::json;

use crate::model::{
    self, Cluster, Container, Definition, Desired, Instance, Resources, Status, Task,
};
use crate::store::{RedbStore, Store};

pub(super) const INSTANCE: &str = "0000000000000000000000000000000a";

pub(crate) fn store() -> (tempfile::TempDir, RedbStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = RedbStore::open(directory.path()).unwrap();
    (directory, store)
}

pub(crate) fn cluster(store: &dyn Store, name: &str) {
    let cluster = Cluster {
        name: name.into(),
        active: true,
        tags: vec![],
        settings: vec![],
    };
    let write = model::put(format!("cluster/{name}"), &cluster);
    store.transact(&[], &[write]).unwrap();
}

pub(super) fn instance(store: &dyn Store) {
    let instance = Instance {
        id: INSTANCE.into(),
        cluster: "default".into(),
        connected: false,
        registered_at: 1,
        total: Resources::default(),
        attributes: vec![],
        agent_version: String::new(),
        host_name: String::new(),
        key_hash: "aa".into(),
        version: 1,
    };
    let write = model::put(format!("instance/default/{INSTANCE}"), &instance);
    store.transact(&[], &[write]).unwrap();
}

pub(super) fn definition(store: &dyn Store, document: serde_json::Value) {
    let definition = Definition {
        family: "web".into(),
        revision: 1,
        active: true,
        registered_at: 1,
        registered_by: String::new(),
        deregistered_at: None,
        document,
        tags: vec![],
    };
    let write = model::put("definition/web/0000000001", &definition);
    store.transact(&[], &[write]).unwrap();
}

pub(super) fn document() -> serde_json::Value {
    json!({
        "family": "web", "networkMode": "none",
        "containerDefinitions": [{"name": "main", "image": "busybox", "essential": true, "cpu": 0}]
    })
}

pub(super) fn id(n: u8) -> String {
    format!("{n:032x}")
}

pub(super) fn task(n: u8) -> Task {
    Task {
        id: id(n),
        cluster: "default".into(),
        family: "web".into(),
        revision: 1,
        instance: INSTANCE.into(),
        desired: Desired::Running,
        status: Status::Pending,
        overrides: json!({}),
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
            image: "busybox".into(),
            image_digest: None,
            runtime_id: None,
            status: Status::Pending,
            exit_code: None,
            reason: None,
            bindings: vec![],
            cpu: 0,
            memory: None,
            memory_reservation: None,
        }],
    }
}

pub(super) fn keep(store: &dyn Store, task: &Task) {
    let write = model::put(format!("task/default/{}", task.id), task);
    store.transact(&[], &[write]).unwrap();
}

pub(super) fn read(store: &dyn Store, n: u8) -> Task {
    let key = format!("task/default/{}", id(n));
    model::read::<Task>(store, &key).unwrap().unwrap().record
}
