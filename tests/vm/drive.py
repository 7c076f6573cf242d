"""Runs inside the guest: a task's whole life on a host with systemd and pure cgroup v2, through boto3."""

import glob
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request

import boto3
from botocore.exceptions import WaiterError

IMAGE = "127.0.0.1:5000/web:1"
FAST = {"Delay": 1, "MaxAttempts": 240}


def check(what, holds, detail=""):
    if not holds:
        raise SystemExit(f"FAILED: {what} {detail}")
    print(f"passed: {what}")


def read(path):
    with open(path) as file:
        return file.read().strip()


def start_dev():
    dev = subprocess.Popen(["longshore", "dev"], stdout=subprocess.PIPE, text=True)
    for line in dev.stdout:
        if line.startswith("Ready"):
            return dev
    raise SystemExit("FAILED: longshore dev ended before it was ready")


def client():
    for line in open("/var/lib/longshore/dev.env"):
        line = line.strip().removeprefix("export ")
        if "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            os.environ[name] = value.strip("'\"")
    return boto3.client("ecs")


def register(ecs, family, **container):
    container = {"name": "main", "image": IMAGE, "memory": 64, "stopTimeout": 5} | container
    ecs.register_task_definition(family=family, cpu="256", memory="128", containerDefinitions=[container])


def run(ecs, family):
    answer = ecs.run_task(taskDefinition=family)
    check(f"run-task {family} places the task", not answer["failures"], str(answer["failures"]))
    return answer["tasks"][0]["taskArn"]


def describe(ecs, task):
    return ecs.describe_tasks(tasks=[task])["tasks"][0]


def wait(ecs, waiter, task):
    try:
        ecs.get_waiter(waiter).wait(tasks=[task], WaiterConfig=FAST)
    except WaiterError as error:
        check(f"wait {waiter}", False, f"{error}; the task: {describe(ecs, task)}")
    return describe(ecs, task)


def group_of(task):
    found = glob.glob(f"/sys/fs/cgroup/**/{task.rsplit('/', 1)[1]}", recursive=True)
    check("the task has one cgroup", len(found) == 1, str(found))
    return found[0]


def fetch(url):
    """RUNNING says that the program runs, not that it listens already."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return urllib.request.urlopen(url, timeout=60).read().decode()
        except (urllib.error.URLError, ConnectionError) as error:
            if time.monotonic() > deadline:
                check(f"fetch {url}", False, str(error))
            time.sleep(0.1)


def a_task_runs_within_its_limits_and_stops(ecs):
    register(ecs, "web", portMappings=[{"containerPort": 8080, "hostPort": 18080}])
    task = run(ecs, "web")
    wait(ecs, "tasks_running", task)
    page = fetch("http://127.0.0.1:18080/")
    check("its page comes from the published port", "your own ECS" in page)
    group = group_of(task)
    check("the group stands in a delegated scope of its own", "longshore-default.scope/" in group, group)
    check("cpu.max is a quarter of a core", read(f"{group}/cpu.max") == "25000 100000", read(f"{group}/cpu.max"))
    check("memory.max is the task's", read(f"{group}/memory.max") == str(128 << 20))
    inner = [read(path) for path in glob.glob(f"{group}/*/memory.max")]
    check("the container's memory.max is its own", inner == [str(64 << 20)], str(inner))
    ecs.stop_task(task=task, reason="seen enough")
    stopped = wait(ecs, "tasks_stopped", task)
    check("stopCode and reason are told", (stopped["stopCode"], stopped["stoppedReason"]) == ("UserInitiated", "seen enough"))
    check("its exit code is told", "exitCode" in stopped["containers"][0], str(stopped["containers"][0]))
    check("its cgroup is gone", not os.path.exists(group))


def an_allocation_past_the_limit_is_an_oom_kill(ecs):
    hog = ["sh", "-c", "tail /dev/zero"]
    register(ecs, "hog", memory=32, entryPoint=hog[:2], command=hog[2:])
    stopped = wait(ecs, "tasks_stopped", run(ecs, "hog"))
    container = stopped["containers"][0]
    check("the reason says OutOfMemoryError", container.get("reason", "").startswith("OutOfMemoryError"), str(container))
    check("the exit code says SIGKILL", container.get("exitCode") == 137, str(container.get("exitCode")))


def a_killed_agent_comes_back_and_knows_the_exit(ecs, dev):
    register(ecs, "sleeper", entryPoint=["sh", "-c"], command=["while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 42"])
    task = run(ecs, "sleeper")
    wait(ecs, "tasks_running", task)
    group = group_of(task)
    dev.send_signal(signal.SIGKILL)
    dev.wait()
    pids = [int(pid) for path in glob.glob(f"{group}/*/cgroup.procs") for pid in read(path).split()]
    check("the container lives without the agent", len(pids) > 0)
    open(f"/proc/{pids[0]}/root/tmp/go", "w").close()
    for _ in range(600):
        if not os.path.exists(f"/proc/{pids[0]}"):
            break
        time.sleep(0.1)
    dev = start_dev()
    stopped = wait(client(), "tasks_stopped", task)
    check("the exit that nobody saw has its true code", stopped["containers"][0].get("exitCode") == 42, str(stopped))
    return dev


def main():
    check("this host is pure cgroup v2", os.path.exists("/sys/fs/cgroup/cgroup.controllers"))
    before = {line.split()[4] for line in open("/proc/self/mountinfo")}
    dev = start_dev()
    ecs = client()
    a_task_runs_within_its_limits_and_stops(ecs)
    an_allocation_past_the_limit_is_an_oom_kill(ecs)
    dev = a_killed_agent_comes_back_and_knows_the_exit(ecs, dev)
    dev.send_signal(signal.SIGINT)
    check("Ctrl-C ends dev well", dev.wait(60) == 0)
    subprocess.run(["longshore", "dev", "--reset"], check=True)
    after = {line.split()[4] for line in open("/proc/self/mountinfo")}
    check("no mount is left", after <= before, str(after - before))
    left = glob.glob("/sys/fs/cgroup/**/longshore-default*", recursive=True)
    check("no cgroup is left", left == [], str(left))
    check("no process is left", subprocess.run(["pgrep", "longshore"]).returncode == 1)


main()
