"""Times starts of one container under longshore, podman and containerd, interleaved in one run."""

import argparse
import os
import re
import statistics
import subprocess
import time

import boto3

STAMP = re.compile(r"stamp (\d+\.\d+)")


def run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def until(question, seconds=30):
    """The first true answer; a bounded wait, because the thing asked about is another process."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = question()
        if answer:
            return answer
        time.sleep(0.005)
    raise SystemExit("a container never wrote its time")


class Longshore:
    name = "longshore"

    def __init__(self, arguments):
        self.ecs = boto3.client("ecs")
        self.ecs.register_task_definition(
            family="stamp",
            networkMode="none",
            cpu="512",
            containerDefinitions=[{"name": "stamp", "image": arguments.image, "memory": 128}],
        )

    def start(self, number):
        begin = time.time()
        task = self.ecs.run_task(taskDefinition="stamp")["tasks"][0]["taskArn"]
        stamp = until(lambda: STAMP.search(self.log(task)))
        self.ecs.get_waiter("tasks_stopped").wait(tasks=[task], WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        return float(stamp.group(1)) - begin

    def log(self, task):
        return subprocess.run(
            ["longshore", "logs", "--instance", "bench", task], capture_output=True, text=True
        ).stdout


class Podman:
    name = "podman run -d"

    def __init__(self, arguments):
        self.image = arguments.image
        self.base = ["podman", "--root", f"{arguments.work}/podman", "--runroot", f"{arguments.work}/podman-run"]
        self.base += ["--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        run(*self.base, "pull", "--tls-verify=false", "-q", self.image)

    def start(self, number):
        limits = ["--memory", "128m", "--cpu-period", "100000", "--cpu-quota", "50000"]
        ulimits = ["--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000"]
        begin = time.time()
        container = run(*self.base, "run", "-d", "--network", "none", *limits, *ulimits, self.image).strip()
        stamp = until(lambda: STAMP.search(run(*self.base, "logs", container)))
        run(*self.base, "rm", "-f", container)
        return float(stamp.group(1)) - begin


class Containerd:
    name = "ctr run -d"

    def __init__(self, arguments):
        self.image, self.work = arguments.image, arguments.work
        self.base = ["ctr", "--address", f"{arguments.work}/containerd/sock"]
        run(*self.base, "images", "pull", "--plain-http", self.image)

    def start(self, number):
        name, log = f"stamp{number}", f"{self.work}/ctr-{number}.log"
        limits = ["--memory-limit", str(128 << 20), "--cpu-period", "100000", "--cpu-quota", "50000"]
        begin = time.time()
        run(*self.base, "run", "-d", "--log-uri", f"file://{log}", "--seccomp", *limits, self.image, name)
        stamp = until(lambda: os.path.exists(log) and STAMP.search(open(log).read()))
        until(lambda: "STOPPED" in run(*self.base, "tasks", "ls"))
        run(*self.base, "tasks", "rm", name)
        run(*self.base, "containers", "rm", name)
        return float(stamp.group(1)) - begin


def memory(pid):
    """Resident and unshared KiB of a process."""
    text = open(f"/proc/{pid}/smaps_rollup").read()
    kib = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.M))
    return int(kib["Rss"]), int(kib["Private_Clean"]) + int(kib["Private_Dirty"])


def show_memory(arguments, ecs):
    ecs.register_task_definition(
        family="idle",
        networkMode="none",
        containerDefinitions=[{"name": "idle", "image": arguments.image, "memory": 128, "command": ["stay"]}],
    )
    task = ecs.run_task(taskDefinition="idle")["tasks"][0]["taskArn"]
    ecs.get_waiter("tasks_running").wait(tasks=[task], WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    monitors = run("pgrep", "-f", "longshore-runtime monitor").split() or run("pgrep", "longshore-runt").split()
    print(f"\n{'memory, KiB':<34}{'resident':>10}{'unshared':>10}")
    print("{:<34}{:>10}{:>10}".format("agent and control plane (dev)", *memory(arguments.dev)))
    print("{:<34}{:>10}{:>10}".format("one monitor", *memory(monitors[0])))
    ecs.stop_task(task=task)
    ecs.get_waiter("tasks_stopped").wait(tasks=[task], WaiterConfig={"Delay": 1, "MaxAttempts": 60})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--dev", type=int, required=True)
    parser.add_argument("--image", required=True)
    arguments = parser.parse_args()
    os.environ["PATH"] = f"{os.path.dirname(os.readlink(f'/proc/{arguments.dev}/exe'))}:{os.environ['PATH']}"
    peers = [Longshore(arguments), Podman(arguments), Containerd(arguments)]
    for peer in peers:
        peer.start(0)  # warm
    times = {peer.name: [] for peer in peers}
    for number in range(1, arguments.runs + 1):
        for peer in peers:
            times[peer.name].append(peer.start(number) * 1000)
    base = statistics.median(times["longshore"])
    print(f"\n{'request to first instruction, ms':<34}{'median':>10}{'min':>10}{'max':>10}{'longshore is':>16}")
    for name, all_of_it in times.items():
        median = statistics.median(all_of_it)
        ratio = "" if name == "longshore" else f"{base / median:.2f} of it"
        print(f"{name:<34}{median:>10.1f}{min(all_of_it):>10.1f}{max(all_of_it):>10.1f}{ratio:>16}")
    show_memory(arguments, peers[0].ecs)


main()
