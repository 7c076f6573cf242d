//! A task with a disk of its own.

use super::*;

#[test]
#[ignore = "needs root"]
fn the_containers_of_a_task_share_its_disk_which_goes_with_it() {
    on_a_host(|ground| async move {
        let mut agent = ground.agent().await;
        // The first has its file when it makes the directories by which the second knows: two that took at once might
        // both end with a part.
        let takes = "/bin/busybox fallocate -l 900m /x";
        let first = format!(
            "{takes} && echo mine; for n in $(/bin/busybox seq 200); do /bin/busybox mkdir /$n; done; sleep 1000"
        );
        let second = format!(
            "until [ $(($(/bin/busybox stat -f -c '%c - %d' /))) -gt 150 ]; do /bin/busybox usleep 10000; done; \
             {takes} 2>&1; sleep 1000"
        );
        let mut task = ground.task(1, &first);
        task.ephemeral_storage = Some(1);
        let mut other = ground.task(1, &second).containers.remove(0);
        other.name = "second".to_owned();
        task.containers.push(other);
        agent.want("s", 1, vec![run(task.clone())]).await;
        let notice = reaches(&mut agent, 1, Status::Running).await;
        let mut said = Vec::new();
        for container in &notice.report.containers {
            let dir = log_dir(&agent.world.instance, &task.id, &container.runtime_id);
            let line = async {
                loop {
                    if let Some(line) = Reader::new(&dir).next_line().unwrap() {
                        return line.text;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let line = tokio::time::timeout(Duration::from_secs(60), line).await;
            said.push(line.expect("it says something"));
        }
        said.sort();
        assert!(said[0].contains("No space left on device"), "{said:?}");
        assert_eq!(said[1], "mine\n");

        agent.want("s", 2, vec![stop(task)]).await;
        reaches(&mut agent, 1, Status::Stopped).await;
        assert_eq!(ground.traces(&agent.world).await, Vec::<String>::new());
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn a_disk_that_no_task_owns_is_removed_at_the_start() {
    on_a_host(|ground| async move {
        let host = ground.host().await;
        host.images
            .make_disk(sample::id(3).as_str(), 64 << 20)
            .unwrap();
        drop(host);
        let agent = ground.agent().await;
        assert_eq!(ground.traces(&agent.world).await, Vec::<String>::new());
        agent.stop().await;
    });
}
