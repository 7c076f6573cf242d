//! boto3's own waiters and paginators, unmodified, and the shapes that clients lean on.

use longshore_tests::{Street, container, definition};
use serde_json::{Value, json};

#[test]
#[ignore = "needs root"]
fn waiters_and_paginators_work_unmodified() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let client = dev.client();
    let task = client.launch(definition(
        "sleep",
        &[container("c", &image, "exec sleep 1000")],
    ));
    client
        .wait("tasks_running", json!({"tasks": [task]}))
        .expect("tasks-running");
    client.stop(&task, "end of test");
    client
        .wait("tasks_stopped", json!({"tasks": [task]}))
        .expect("tasks-stopped");
    let absent = client.wait("tasks_running", json!({"tasks": ["f".repeat(32)]}));
    assert!(
        absent
            .expect_err("MISSING fails the waiter")
            .message
            .contains("MISSING")
    );

    for number in 0..7 {
        let family = format!("family-{number}");
        let one = definition(&family, &[container("c", &image, "true")]);
        client
            .call("RegisterTaskDefinition", one)
            .expect("register");
    }
    let paged = json!({"familyPrefix": "family-", "PaginationConfig": {"PageSize": 3}});
    let pages = client
        .pages("list_task_definition_families", paged)
        .expect("pages");
    let pages = pages.as_array().expect("pages");
    let counts: Vec<_> = pages
        .iter()
        .map(|page| page["families"].as_array().map_or(0, Vec::len))
        .collect();
    assert_eq!(counts, [3, 3, 1]);
}

#[test]
#[ignore = "needs root"]
fn clusters_live_and_die_as_in_ecs() {
    let street = Street::open();
    let mut dev = street.dev();
    let client = dev.client();
    let call = |op: &str, args: Value| client.call(op, args);
    call("CreateCluster", json!({"clusterName": "blue"})).expect("create");
    let again =
        call("CreateCluster", json!({"clusterName": "blue"})).expect("create is idempotent");
    assert_eq!(again["cluster"]["status"], "ACTIVE");
    let described =
        call("DescribeClusters", json!({"clusters": ["blue", "absent"]})).expect("describe");
    assert_eq!(described["clusters"][0]["clusterName"], "blue");
    assert_eq!(described["failures"][0]["reason"], "MISSING");
    let deleted = call("DeleteCluster", json!({"cluster": "blue"})).expect("delete");
    assert_eq!(deleted["cluster"]["status"], "INACTIVE");
    let listed = call("ListClusters", json!({})).expect("list");
    assert!(!listed.to_string().contains("cluster/blue"), "{listed}");
    let error = call("ListTasks", json!({"cluster": "absent"})).expect_err("no such cluster");
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("ClusterNotFoundException", "Cluster not found.")
    );
    let error = call("ListTasks", json!({"maxResults": 101})).expect_err("at most 100");
    assert!(
        ["InvalidParameterException", "ClientException"].contains(&error.code.as_str()),
        "{error:?}"
    );
}

#[test]
#[ignore = "needs root"]
fn placement_counts_what_a_host_really_has() {
    let street = Street::open();
    let image = street.registry_image("web:1");
    let mut dev = street.dev();
    let client = dev.client();
    let mut huge = container("c", &image, "true");
    huge["memory"] = json!(100_000_000);
    client
        .call("RegisterTaskDefinition", definition("huge", &[huge]))
        .expect("register");
    let answer = client
        .call("RunTask", json!({"taskDefinition": "huge"}))
        .expect("run");
    assert_eq!(
        answer["failures"][0]["reason"], "RESOURCE:MEMORY",
        "{answer}"
    );

    let server = json!({"name": "c", "image": image, "memory": 32,
        "portMappings": [{"containerPort": 8080, "hostPort": 18080}]});
    let bridge = json!({"family": "port", "containerDefinitions": [server]});
    let first = client.launch(bridge);
    let answer = client
        .call("RunTask", json!({"taskDefinition": "port"}))
        .expect("run");
    assert_eq!(
        answer["failures"][0]["reason"], "RESOURCE:PORTS",
        "{answer}"
    );

    let token = json!({"taskDefinition": "port", "clientToken": "once"});
    client.until_running(&first);
    client.stop(&first, "make room");
    client.until_stopped(&first);
    let one = client.call("RunTask", token.clone()).expect("run");
    let same = client.call("RunTask", token).expect("run");
    assert_eq!(
        one["tasks"][0]["taskArn"], same["tasks"][0]["taskArn"],
        "a client token makes one task"
    );
}
