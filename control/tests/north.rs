//! The ECS API as a client sees it: real HTTP, real signatures, a real store; the hosts are records.

mod street;

use longshore_control::model::{Desired, Status};
use serde_json::{Value, json};
use street::{ACCOUNT, Plane, error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn definition(more: Value) -> Value {
    let mut container = json!({"name": "app", "image": "demo:1", "memory": 100, "cpu": 100});
    for (key, value) in more.as_object().unwrap() {
        container[key] = value.clone();
    }
    json!({"family": "web", "containerDefinitions": [container]})
}

async fn start(more: Value) -> (tempfile::TempDir, Plane) {
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::start(state.path());
    plane.ok("RegisterTaskDefinition", definition(more)).await;
    (state, plane)
}

fn id(task: &Value) -> String {
    let arn = task["taskArn"].as_str().unwrap();
    arn.rsplit('/').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_lives_from_run_to_stopped() {
    let (_state, plane) = start(json!({})).await;
    let host = plane.add_host(1, 1000, 1000);
    let run = plane.ok("RunTask", json!({"taskDefinition": "web"})).await;
    let task = &run["tasks"][0];
    assert_eq!(task["lastStatus"], "PENDING");
    assert_eq!(task["containers"][0]["lastStatus"], "PENDING");
    let arn = format!("arn:aws:ecs:us-east-1:{ACCOUNT}:container-instance/default/{host}");
    assert_eq!(task["containerInstanceArn"], arn);
    let id = id(task);

    plane.report(&id, |task| task.status = Status::Running);
    let described = plane
        .ok("DescribeTasks", json!({"tasks": [task["taskArn"]]}))
        .await;
    assert_eq!(described["tasks"][0]["lastStatus"], "RUNNING");
    assert_eq!(described["tasks"][0]["connectivity"], "CONNECTED");

    let stopped = plane
        .ok("StopTask", json!({"task": id, "reason": "enough"}))
        .await;
    assert_eq!(stopped["task"]["desiredStatus"], "STOPPED");
    assert_eq!(stopped["task"]["lastStatus"], "RUNNING");
    assert_eq!(stopped["task"]["stopCode"], "UserInitiated");
    assert_eq!(plane.tasks()[0].desired, Desired::Stopped);

    plane.report(&id, |task| {
        task.status = Status::Stopped;
        task.containers[0].exit_code = Some(143);
    });
    let described = plane.ok("DescribeTasks", json!({"tasks": [id]})).await;
    let task = &described["tasks"][0];
    assert_eq!(
        (&task["lastStatus"], &task["stoppedReason"]),
        (&json!("STOPPED"), &json!("enough"))
    );
    assert_eq!(task["containers"][0]["exitCode"], 143);
    assert_eq!(
        plane.ok("ListTasks", json!({})).await["taskArns"],
        json!([])
    );
    let listed = plane
        .ok("ListTasks", json!({"desiredStatus": "STOPPED"}))
        .await;
    assert_eq!(listed["taskArns"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ends_by_itself_is_listed_as_stopped() {
    let (_state, plane) = start(json!({})).await;
    plane.add_host(1, 1000, 1000);
    let run = plane.ok("RunTask", json!({"taskDefinition": "web"})).await;
    plane.report(&id(&run["tasks"][0]), |task| task.status = Status::Stopped);
    let listed = plane
        .ok("ListTasks", json!({"desiredStatus": "STOPPED"}))
        .await;
    assert_eq!(listed["taskArns"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_callers_at_once_overbook_no_host() {
    let (_state, plane) = start(json!({})).await;
    plane.add_host(1, 550, 10_000);
    plane.add_host(2, 10_000, 350);
    let plane = std::sync::Arc::new(plane);
    let calls = (0..20).map(|_| {
        let plane = std::sync::Arc::clone(&plane);
        tokio::spawn(async move { plane.ok("RunTask", json!({"taskDefinition": "web"})).await })
    });
    let calls: Vec<_> = calls.collect();
    let (mut placed, mut failed) = (0, 0);
    for call in calls {
        let answer = call.await.unwrap();
        placed += answer["tasks"].as_array().unwrap().len();
        failed += usize::from(!answer["failures"].as_array().unwrap().is_empty());
    }
    assert_eq!(
        (placed, failed),
        (8, 12),
        "five by CPU on one, three by memory on the other"
    );
    let on = |host: u8| {
        let host = format!("{host:032x}");
        plane.tasks().iter().filter(|t| t.instance == host).count()
    };
    assert_eq!((on(1), on(2)), (5, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_task_keeps_its_port_until_it_is_stopped() {
    let ports = json!({"portMappings": [{"containerPort": 80, "hostPort": 8080}]});
    let (_state, plane) = start(ports).await;
    plane.add_host(1, 1000, 1000);
    let run = |count: u32| {
        plane.ok(
            "RunTask",
            json!({"taskDefinition": "web:1", "count": count}),
        )
    };
    let first = run(2).await;
    assert_eq!(first["failures"][0]["reason"], "RESOURCE:PORTS");
    let id = id(&first["tasks"][0]);
    plane.report(&id, |task| task.status = Status::Stopping);
    assert_eq!(run(1).await["tasks"], json!([]));
    plane.report(&id, |task| task.status = Status::Stopped);
    assert_eq!(run(1).await["failures"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_token_makes_run_task_idempotent() {
    let (_state, plane) = start(json!({})).await;
    plane.add_host(1, 1000, 1000);
    let body = json!({"taskDefinition": "web", "clientToken": "t", "count": 2});
    let first = plane.ok("RunTask", body.clone()).await;
    let again = plane.ok("RunTask", body).await;
    let arns = |answer: &Value| -> Vec<String> {
        let tasks = answer["tasks"].as_array().unwrap().iter();
        tasks
            .map(|t| t["taskArn"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(arns(&first), arns(&again));
    assert_eq!(plane.tasks().len(), 2);
    let other = json!({"taskDefinition": "web", "clientToken": "t", "count": 3});
    let (status, body) = plane.call("RunTask", other).await;
    assert_eq!(
        (status, body["__type"].as_str()),
        (400, Some("ConflictException"))
    );
    assert_eq!(body["resourceIds"], json!(arns(&first)));
}

#[tokio::test(flavor = "multi_thread")]
async fn start_task_obeys_the_caller_and_the_host() {
    let (_state, plane) = start(json!({})).await;
    let (roomy, full) = (plane.add_host(1, 1000, 1000), plane.add_host(2, 50, 1000));
    let missing = "f".repeat(32);
    let body = json!({"taskDefinition": "web", "containerInstances": [roomy, full, missing]});
    let answer = plane.ok("StartTask", body).await;
    assert_eq!(answer["tasks"].as_array().unwrap().len(), 1);
    let failures = answer["failures"].as_array().unwrap();
    let reasons: Vec<&str> = failures
        .iter()
        .map(|f| f["reason"].as_str().unwrap())
        .collect();
    assert_eq!(reasons, ["RESOURCE:CPU", "MISSING"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hosts_policy_forbids_is_a_placement_failure_with_the_remedy() {
    let (_state, plane) = start(json!({"privileged": true})).await;
    plane.add_host(1, 1000, 1000);
    let answer = plane.ok("RunTask", json!({"taskDefinition": "web"})).await;
    assert_eq!(answer["failures"][0]["reason"], "ATTRIBUTE");
    let detail = answer["failures"][0]["detail"].as_str().unwrap();
    assert!(
        detail.contains("privileged-container") && detail.contains("host's policy"),
        "{detail}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_that_join_without_gap_or_repeat() {
    let (_state, plane) = start(json!({"cpu": 1, "memory": 6})).await;
    plane.add_host(1, 1000, 1000);
    for _ in 0..2 {
        plane
            .ok("RunTask", json!({"taskDefinition": "web", "count": 4}))
            .await;
    }
    for _ in 0..4 {
        plane
            .ok("RegisterTaskDefinition", definition(json!({})))
            .await;
    }
    let all = pages(&plane, "ListTasks", "taskArns", json!({"maxResults": 3})).await;
    let mut expected: Vec<String> = plane.tasks().into_iter().map(|t| t.id).collect();
    expected.sort();
    let ids: Vec<String> = all
        .iter()
        .map(|arn| arn.rsplit('/').next().unwrap().to_owned())
        .collect();
    assert_eq!(ids, expected);
    let newest_first = json!({"maxResults": 2, "sort": "DESC"});
    let all = pages(
        &plane,
        "ListTaskDefinitions",
        "taskDefinitionArns",
        newest_first,
    )
    .await;
    let revisions: Vec<&str> = all
        .iter()
        .map(|arn| arn.rsplit(':').next().unwrap())
        .collect();
    assert_eq!(revisions, ["5", "4", "3", "2", "1"]);
}

async fn pages(plane: &Plane, operation: &str, list: &str, mut body: Value) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let page = plane.ok(operation, body.clone()).await;
        let items = page[list].as_array().unwrap().iter();
        all.extend(items.map(|item| item.as_str().unwrap().to_owned()));
        match page.get("nextToken") {
            Some(token) => body["nextToken"] = token.clone(),
            None => return all,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_rise_and_a_family_means_its_newest_active_one() {
    let (_state, plane) = start(json!({})).await;
    plane
        .ok("RegisterTaskDefinition", definition(json!({})))
        .await;
    let family = || plane.ok("DescribeTaskDefinition", json!({"taskDefinition": "web"}));
    assert_eq!(family().await["taskDefinition"]["revision"], 2);
    let second = json!({"taskDefinition": "web:2"});
    let gone = plane.ok("DeregisterTaskDefinition", second.clone()).await;
    assert_eq!(gone["taskDefinition"]["status"], "INACTIVE");
    assert_eq!(family().await["taskDefinition"]["revision"], 1);
    let third = plane
        .ok("RegisterTaskDefinition", definition(json!({})))
        .await;
    assert_eq!(
        third["taskDefinition"]["revision"], 3,
        "2 is never given out again"
    );
    plane.add_host(1, 1000, 1000);
    assert_eq!(
        plane.refused("RunTask", second).await,
        "InvalidParameterException: TaskDefinition is inactive"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_calls_have_the_names_and_texts_of_ecs() {
    let (_state, plane) = start(json!({})).await;
    let awsvpc = json!({"family": "vpc", "networkMode": "awsvpc",
        "containerDefinitions": [{"name": "a", "image": "i", "memory": 8}]});
    plane.ok("RegisterTaskDefinition", awsvpc).await;
    let cases = [
        (
            "RunTask",
            json!({"taskDefinition": "web"}),
            "InvalidParameterException: No Container Instances were found in your cluster.",
        ),
        (
            "RunTask",
            json!({"taskDefinition": "nope"}),
            "ClientException: TaskDefinition not found.",
        ),
        (
            "RunTask",
            json!({"taskDefinition": "vpc"}),
            "UnsupportedFeatureException: Task definition: 'networkMode' 'awsvpc' is not supported by this version of Longshore.",
        ),
        (
            "RunTask",
            json!({"taskDefinition": "web", "cluster": "nope"}),
            "ClusterNotFoundException: Cluster not found.",
        ),
        (
            "RunTask",
            json!({"taskDefinition": "web", "count": 11}),
            "InvalidParameterException: count must be between 1 and 10.",
        ),
        (
            "RunTask",
            json!({"taskDefinition": "web", "launchType": "FARGATE"}),
            "UnsupportedFeatureException: 'launchType' 'FARGATE' is not supported by this version of Longshore.",
        ),
        (
            "RunTask",
            json!({"taskDefinition": "web", "overrides": {"containerOverrides": [{"name": "x"}]}}),
            "InvalidParameterException: The container x does not exist in the task definition.",
        ),
        (
            "RunTask",
            json!({"taskDefinition": 7}),
            "SerializationException: Invalid value at 'taskDefinition': 7 was given; a string is expected.",
        ),
        (
            "StopTask",
            json!({"task": "f".repeat(32)}),
            "InvalidParameterException: The referenced task was not found.",
        ),
        (
            "StopTask",
            json!({"task": "arn:aws:ecs:us-east-1:123456789012:task/other/".to_owned() + &"f".repeat(32)}),
            "InvalidParameterException: Identifier is for other. Your cluster is default",
        ),
        (
            "DescribeTasks",
            json!({"tasks": []}),
            "InvalidParameterException: Tasks cannot be empty.",
        ),
        (
            "DescribeTaskDefinition",
            json!({"taskDefinition": "nope"}),
            "ClientException: Unable to describe task definition.",
        ),
        (
            "DescribeTaskDefinition",
            json!({"taskDefinition": "web:foo"}),
            "ClientException: Invalid revision number. Number: foo",
        ),
        (
            "DeregisterTaskDefinition",
            json!({"taskDefinition": "web"}),
            "ClientException: Revision is missing.",
        ),
        (
            "ListTasks",
            json!({"nextToken": "!"}),
            "InvalidParameterException: Invalid token.",
        ),
        (
            "ListTasks",
            json!({"maxResults": 101}),
            "InvalidParameterException: maxResults must be between 1 and 100.",
        ),
        (
            "ListTasks",
            json!({"serviceName": "s"}),
            "ServiceNotFoundException: Service not found.",
        ),
        (
            "DeleteCluster",
            json!({"cluster": "nope"}),
            "ClusterNotFoundException: Cluster not found.",
        ),
        (
            "CreateCluster",
            json!({"clusterName": "a/b"}),
            "InvalidParameterException: Invalid cluster name 'a/b'. Use 1 to 255 letters, digits, hyphens and underscores.",
        ),
        (
            "CreateService",
            json!({}),
            "UnsupportedFeatureException: CreateService is not supported by this version of Longshore.",
        ),
        (
            "MakeCoffee",
            json!({}),
            "UnknownOperationException: The operation is not one of the ECS API (AmazonEC2ContainerServiceV20141113).",
        ),
        (
            "RegisterTaskDefinition",
            definition(json!({"memory": 5})),
            "ClientException: Invalid setting for container 'app'. 'memory' must be at least 6 MiB.",
        ),
        (
            "RegisterTaskDefinition",
            definition(json!({"cpu": "7"})),
            "SerializationException: Invalid value at 'containerDefinitions[0].cpu': '7' was given; an integer between 0 and 4294967295 is expected.",
        ),
        (
            "RegisterTaskDefinition",
            definition(json!({"cpu": -1})),
            "ClientException: Invalid value at 'containerDefinitions[0].cpu': -1 was given; an integer between 0 and 4294967295 is expected.",
        ),
    ];
    for (operation, body, expected) in cases {
        assert_eq!(plane.refused(operation, body).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_a_signature_that_holds() {
    let (_state, mut plane) = start(json!({})).await;
    let target = "AmazonEC2ContainerServiceV20141113.ListClusters";
    let mut unsigned = plane.signed(target, "{}");
    unsigned.headers_mut().remove("authorization");
    let (status, body) = plane.send(unsigned).await;
    assert_eq!(
        (status, body["__type"].as_str()),
        (400, Some("MissingAuthenticationTokenException"))
    );
    let mut other = plane.signed(target, "{}");
    let elsewhere = "AmazonEC2ContainerServiceV20141113.DeleteCluster"
        .parse()
        .unwrap();
    other.headers_mut().insert("x-amz-target", elsewhere);
    assert!(
        error(&plane.send(other).await.1)
            .starts_with("InvalidSignatureException: The request signature")
    );
    plane.key.1 = "wrong".into();
    assert!(
        plane
            .refused("ListClusters", json!({}))
            .await
            .starts_with("InvalidSignatureException")
    );
    plane.key.0 = "AKIAAAAAAAAAAAAAAAAA".into();
    assert!(
        plane
            .refused("ListClusters", json!({}))
            .await
            .starts_with("UnrecognizedClientException")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_json_or_too_large_are_refused() {
    let (_state, plane) = start(json!({})).await;
    let target = "AmazonEC2ContainerServiceV20141113.ListClusters";
    for (body, cause) in [
        ("", "it is empty"),
        ("{", "it is not JSON (line 1, column 1)"),
        ("{\n\"a\": }", "it is not JSON (line 2, column 6)"),
        ("\u{0}", "it is not JSON (line 1, column 1)"),
        ("[]", "it is a list"),
        ("7", "it is a number"),
    ] {
        let (status, answer) = plane.send(plane.signed(target, body)).await;
        assert_eq!(status, 400);
        assert_eq!(
            error(&answer),
            format!(
                "SerializationException: Cannot read the request body of ListClusters: {cause}. Send one JSON object, {{}} \
                 where there is nothing to say."
            )
        );
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let (status, _) = plane
        .send(plane.signed(target, format!("{{\"a\":{deep}}}")))
        .await;
    assert_eq!(status, 400);
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(1 << 20));
    let (status, answer) = plane.send(plane.signed(target, large)).await;
    assert_eq!(
        (status, answer["__type"].as_str()),
        (413, Some("RequestEntityTooLargeException"))
    );
    let get = http::Request::get("/")
        .header("host", "x")
        .body(Default::default())
        .unwrap();
    assert_eq!(plane.send(get).await.0, 404);
    plane.ok("ListClusters", json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_half_a_request_disturbs_nobody_and_does_not_hold_up_the_end() {
    let (_state, plane) = start(json!({})).await;
    let mut half = tokio::net::TcpStream::connect(plane.address).await.unwrap();
    half.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Le")
        .await
        .unwrap();
    plane.ok("ListClusters", json!({})).await;
    plane.stop().await;
    let mut rest = Vec::new();
    // Closed or reset: either way it ended.
    half.read_to_end(&mut rest).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_clusters_and_tasks_are_there_after_a_restart() {
    let (state, plane) = start(json!({})).await;
    plane.add_host(1, 1000, 1000);
    plane.ok("RunTask", json!({"taskDefinition": "web"})).await;
    let (key, tasks) = (plane.key.clone(), plane.tasks());
    plane.stop().await;
    let plane = Plane::start(state.path());
    assert_eq!(plane.key, key);
    assert_eq!(plane.tasks(), tasks);
    let listed = plane.ok("ListTasks", json!({})).await;
    assert_eq!(listed["taskArns"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_are_made_once_and_deleted_when_empty() {
    let (_state, plane) = start(json!({})).await;
    plane.ok("CreateCluster", json!({"clusterName": "b"})).await;
    let again = plane.ok("CreateCluster", json!({"clusterName": "b"})).await;
    assert_eq!(again["cluster"]["status"], "ACTIVE");
    plane.ok("DeleteCluster", json!({"cluster": "b"})).await;
    let gone = plane
        .ok("DescribeClusters", json!({"clusters": ["b", "c"]}))
        .await;
    assert_eq!(gone["clusters"][0]["status"], "INACTIVE");
    assert_eq!(gone["failures"][0]["reason"], "MISSING");
    let arn = format!("arn:aws:ecs:us-east-1:{ACCOUNT}:cluster/default");
    assert_eq!(
        plane.ok("ListClusters", json!({})).await["clusterArns"],
        json!([arn])
    );
    plane.add_host(1, 1, 1);
    let refused = plane
        .refused("DeleteCluster", json!({"cluster": arn}))
        .await;
    assert!(
        refused.starts_with("ClusterContainsContainerInstancesException"),
        "{refused}"
    );
}

#[test]
fn debug_shows_no_secret() {
    let state = tempfile::tempdir().unwrap();
    let plane = longshore_control::ControlPlane::open(street::config(state.path())).unwrap();
    assert!(!format!("{plane:?}").contains(plane.access_key().1));
}

/// Whoever only connects must not keep anybody else out.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_make_room_for_a_call() {
    let (_state, plane) = start(json!({})).await;
    let mut silent = Vec::new();
    for _ in 0..512 {
        silent.push(tokio::net::TcpStream::connect(plane.address).await.unwrap());
    }
    plane.ok("ListClusters", json!({})).await;
    let ended = silent[0].read(&mut [0]).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "the oldest had to leave");
    let open = silent[511].try_read(&mut [0]).unwrap_err();
    assert_eq!(
        open.kind(),
        std::io::ErrorKind::WouldBlock,
        "the youngest stays"
    );
}
