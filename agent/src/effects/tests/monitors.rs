//! Monitors that are killed, with the agent and without it.

use super::*;

#[test]
#[ignore = "needs root"]
fn a_lost_monitor_is_replaced_and_its_container_goes_on() {
    on_a_host(|ground| async move {
        let mut agent = ground.agent().await;
        let script = "trap 'echo down; exit 3' TERM; echo up; while :; do sleep 0.1; done";
        let task = ground.task(1, script);
        agent.want("s", 1, vec![run(task.clone())]).await;
        let notice = reaches(&mut agent, 1, Status::Running).await;
        says(&agent.world, &notice, "up").await;
        // The nursery, from which they come, is among them.
        let lost = kill_monitors(&agent.world);
        let monitors = agent.world.monitors_cgroup();
        let monitors = agent.world.hierarchy.group(&monitors).unwrap();
        let patience = Instant::now() + Duration::from_secs(20);
        loop {
            let pids = monitors.processes().unwrap();
            if pids.len() == lost.len() && pids.iter().all(|pid| !lost.contains(pid)) {
                break;
            }
            assert!(Instant::now() < patience, "no other monitor came");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        agent.want("s", 2, vec![stop(task)]).await;
        let notice = reaches(&mut agent, 1, Status::Stopped).await;
        // Where the kernel does not keep it (before Linux 6.15), it is unknown.
        let code = notice.report.containers[0].exit_code;
        assert!(matches!(code, None | Some(3)), "{code:?}");
        assert_eq!(log_of(&agent.world, &notice), "up\ndown\n");
        agent.stop().await;
    });
}

fn kill_monitors(world: &ThisHost) -> Vec<u32> {
    let monitors = world.hierarchy.group(&world.monitors_cgroup()).unwrap();
    let pids = monitors.processes().unwrap();
    for pid in &pids {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(*pid).unwrap());
        match nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL) {
            // It ended with another that was killed before it.
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(e) => panic!("kill {pid}: {e}"),
        }
    }
    pids
}

#[test]
#[ignore = "needs root"]
fn a_monitor_lost_together_with_the_agent_ends_its_container_and_the_code_is_unknown() {
    on_a_host(|ground| async move {
        let mut agent = ground.agent().await;
        let task = ground.task(1, "echo up; while :; do sleep 0.1; done");
        agent.want("s", 1, vec![run(task.clone())]).await;
        let notice = reaches(&mut agent, 1, Status::Running).await;
        says(&agent.world, &notice, "up").await;
        let world = Arc::clone(&agent.world);
        agent.stop().await;
        kill_monitors(&world);
        drop(world);
        let mut agent = ground.agent().await;
        agent.want("s", 2, vec![run(task)]).await;
        let notice = reaches(&mut agent, 1, Status::Stopped).await;
        let container = &notice.report.containers[0];
        assert_eq!(container.exit_code, None);
        assert_eq!(
            container.reason.as_deref(),
            Some("exit code unknown: monitor lost")
        );
        assert_eq!(ground.traces(&agent.world).await, Vec::<String>::new());
        agent.stop().await;
    });
}
