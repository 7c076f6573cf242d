//! Whatever body a signed caller sends, each operation answers: a document or a named error.

use std::cell::RefCell;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::{self, Resources, samples};
use crate::store::{RedbStore, Write};

const OPERATIONS: [&str; 16] = [
    "CreateCluster",
    "DescribeClusters",
    "ListClusters",
    "DeleteCluster",
    "RegisterTaskDefinition",
    "DescribeTaskDefinition",
    "ListTaskDefinitions",
    "ListTaskDefinitionFamilies",
    "DeregisterTaskDefinition",
    "RunTask",
    "StartTask",
    "StopTask",
    "DescribeTasks",
    "ListTasks",
    "ListContainerInstances",
    "DescribeContainerInstances",
];

const MEMBERS: &str = "cluster|clusters|clusterName|tags|settings|include|task|tasks|taskDefinition|family\
|containerDefinitions|name|image|memory|cpu|portMappings|containerPort|hostPort|dependsOn|containerName\
|condition|count|overrides|containerOverrides|containerInstances|containerInstance|maxResults|nextToken\
|status|sort|familyPrefix|environment|value|key|clientToken|group|startedBy|networkMode|volumes";

fn api() -> (tempfile::TempDir, Api) {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(RedbStore::open(directory.path()).unwrap());
    let arns = Arns {
        region: "us-east-1".into(),
        account: "123456789012".into(),
    };
    let api = Api::new(store, arns, "default".into());
    api.call("CreateCluster", json!({})).unwrap();
    (directory, api)
}

/// JSON that looks like requests: known names, plausible and wild values.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_i64..70_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z:/.*-]{0,12}".prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(Value::from("default")),
        Just(Value::from("web:1")),
        Just(Value::from(
            "arn:aws:ecs:us-east-1:123456789012:task/default/"
        )),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            members(inner),
        ]
    })
}

fn members(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let names: Vec<&str> = MEMBERS.split('|').collect();
    let name = prop::sample::select(names).prop_map(str::to_owned);
    prop::collection::btree_map(name, value, 0..8)
        .prop_map(|members| members.into_iter().collect::<Value>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_body_is_answered(operation in prop::sample::select(&OPERATIONS[..]), body in members(any_json())) {
        thread_local! {
            static API: RefCell<Option<(tempfile::TempDir, Api)>> = const { RefCell::new(None) };
        }
        API.with_borrow_mut(|slot| {
            let (_, api) = slot.get_or_insert_with(api);
            if let Err(error) = api.call(operation, body) {
                assert_ne!(error.name, "ServerException", "{error}");
            }
        });
    }
}

#[test]
fn every_operation_of_the_model_is_answered_by_name() {
    let (_directory, api) = api();
    assert_eq!(OPERATIONS.len() + operation::NOT_YET.len(), 88);
    for name in operation::NOT_YET {
        let error = api.call(name, json!({})).unwrap_err();
        assert_eq!(error.name, "UnsupportedFeatureException");
        assert!(error.message.starts_with(name));
    }
    for name in OPERATIONS {
        let known = api.call(name, json!({})).map_err(|error| error.name);
        assert_ne!(known.err(), Some("UnknownOperationException"), "{name}");
    }
}

#[test]
fn a_lost_family_record_costs_no_revision_number() {
    let (_directory, api) = api();
    let definition = json!({"family": "web",
        "containerDefinitions": [{"name": "a", "image": "i", "memory": 8}]});
    let register = || {
        let answer = api
            .call("RegisterTaskDefinition", definition.clone())
            .unwrap();
        answer["taskDefinition"]["revision"].clone()
    };
    assert_eq!(register(), 1);
    let spoilt = Write::Put("family/web".into(), b"?".to_vec());
    api.store().transact(&[], &[spoilt]).unwrap();
    assert_eq!(register(), 2);
}

#[test]
fn nulls_are_as_good_as_nothing_and_unknown_members_are_ignored() {
    let (_directory, api) = api();
    let body = json!({"family": "web", "cpu": null, "colour": "blue", "containerDefinitions": [
        {"name": "a", "image": "i", "memory": 8, "links": null, "shape": {"round": true}}]});
    let answer = api.call("RegisterTaskDefinition", body).unwrap();
    assert_eq!(answer["taskDefinition"].get("colour"), None);
    assert_eq!(
        answer["taskDefinition"]["containerDefinitions"][0].get("shape"),
        None
    );
}

#[test]
fn distinct_instances_take_one_task_of_a_group_each() {
    let (_directory, api) = api();
    let total = Resources {
        cpu: 1000,
        memory: 1000,
        ..Resources::default()
    };
    for id in ["a", "b"] {
        let instance = samples::instance("default", id, total.clone());
        let write = model::put(format!("instance/default/{id}"), &instance);
        api.store().transact(&[], &[write]).unwrap();
    }
    let definition = json!({"family": "web",
        "containerDefinitions": [{"name": "a", "image": "i", "memory": 8}]});
    api.call("RegisterTaskDefinition", definition).unwrap();
    let apart = json!({"taskDefinition": "web", "count": 3,
        "placementConstraints": [{"type": "distinctInstance"}]});
    let answer = api.call("RunTask", apart).unwrap();
    assert_eq!(answer["tasks"].as_array().unwrap().len(), 2);
    assert_eq!(answer["failures"].as_array().unwrap().len(), 2);
}
