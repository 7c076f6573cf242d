"""Cold pulls side by side: medians, spread and ratios. Asserts nothing. See scripts/lib/bench-pull."""

import argparse
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import time

PATIENCE = 600  # seconds that one command may take
TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    pass


def run(command, **kwargs):
    """A command's wall time, the CPU time of all its processes, the largest one's resident KiB, and what it said."""
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)
    try:
        out, err = child.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise Failed(f"{' '.join(command)}: not done after {PATIENCE} s") from None
    seconds = time.monotonic() - began
    if child.returncode:
        raise Failed(f"{' '.join(command)}: {err.decode()[-2000:]}")
    return seconds, out.decode()


def children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cpu_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_of(pid, field):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field + ":"))


class Bench:
    def __init__(self, asked):
        self.asked = asked
        self.disk = f"{asked.work}/disk"
        self.figures = {}

    def fresh(self, name):
        """An empty folder on the disk, and nothing left to write from whoever was there before."""
        folder = f"{self.disk}/{name}"
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)
        os.mkdir(folder)
        subprocess.run(["sync", "-f", self.disk], check=True)
        return folder

    def gone(self, folder):
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)
        subprocess.run(["sync", "-f", self.disk], check=True)

    def note(self, row, **figures):
        for name, value in figures.items():
            self.figures.setdefault(row, {}).setdefault(name, []).append(value)
        shown = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
        print(f"  {row}: {shown}", flush=True)

    def reference(self, image, host=None):
        return f"{host or self.asked.near}/bench/{image}:t"

    # --- who pulls ---

    def longshore(self, row, image, *words, host=None):
        folder = self.fresh("longshore")
        if host:
            words += ("--insecure", host)
        command = [f"{self.asked.examples}/pull", f"{folder}/store", self.reference(image, host), *words]
        said = json.loads(run(command)[1])
        added, allowed = said["added_kib"] / 1024, 32 + 4 * said["in_flight"]
        self.note(row, seconds=said["seconds"], cpu=said["cpu"], added_mib=added, of_allowed=added / allowed,
                  gap_ms=said["gap_ms"])
        self.gone(folder)

    def containerd(self, row, image, program="containerd", ctr="ctr", config="", host=None):
        folder = self.fresh("containerd")
        socket = f"{self.asked.short}/containerd.sock"
        with open(f"{folder}/config.toml", "w") as file:
            file.write(config)
        command = [program, "--config", f"{folder}/config.toml", "--root", f"{folder}/root", "--state",
                   f"{self.asked.short}/containerd", "--address", socket]
        with open(f"{self.asked.work}/containerd.log", "wb") as log:
            daemon = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 60
            while subprocess.run([ctr, "--address", socket, "version"], capture_output=True).returncode:
                if daemon.poll() is not None or time.monotonic() > until:
                    raise Failed(f"containerd is not ready: see {self.asked.work}/containerd.log")
                time.sleep(0.1)
            before, client, resident = cpu_of(daemon.pid), children(), memory_of(daemon.pid, "VmRSS")
            seconds, _ = run([ctr, "--address", socket, "images", "pull", "--plain-http", "--snapshotter", "overlayfs",
                              self.reference(image, host)])
            cpu = cpu_of(daemon.pid) - before + children() - client
            added = memory_of(daemon.pid, "VmHWM") - resident
            self.note(row, seconds=seconds, cpu=cpu, added_mib=added / 1024)
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait()
            shutil.rmtree(f"{self.asked.short}/containerd", ignore_errors=True)
        self.gone(folder)

    def containerd_1(self, row, image, **more):
        self.containerd(row, image, config='disabled_plugins = ["io.containerd.grpc.v1.cri"]\n', **more)

    def containerd_2(self, row, image):
        program = self.asked.containerd2
        config = ('version = 3\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
                  "[plugins.'io.containerd.transfer.v1.local']\nmax_concurrent_unpacks = 2\n")
        self.containerd(row, image, program=program, ctr=f"{os.path.dirname(program)}/ctr", config=config)

    def podman(self, row, image):
        folder = self.fresh("podman")
        before = children()
        seconds, _ = run(["podman", "--root", f"{folder}/root", "--runroot", f"{self.asked.short}/podman",
                          "--storage-driver", "overlay", "pull", "--quiet", "--tls-verify=false", self.reference(image)])
        self.note(row, seconds=seconds, cpu=children() - before)
        shutil.rmtree(f"{self.asked.short}/podman", ignore_errors=True)
        self.gone(folder)

    def floor(self, row, image):
        folder = self.fresh("floor")
        steps = json.loads(run([f"{self.asked.examples}/pull_floor", self.asked.near, f"bench/{image}", folder,
                                *self.blobs(image)])[1])
        cores = min(os.cpu_count(), 2)
        self.note(row, seconds=sum(steps.values()) / cores, cpu=sum(steps.values()), **steps)
        self.gone(folder)

    def wire(self, row, image, host):
        urls = [f"http://{host}/v2/bench/{image}/blobs/{blob}" for blob in self.blobs(image)]
        command = ["curl", "-fsS", "--parallel", "--parallel-max", "4"]
        for url in urls:
            command += ["-o", "/dev/null", url]
        self.note(row, seconds=run(command)[0])

    def blobs(self, image):
        folder = f"{self.asked.images}/{image}"
        with open(f"{folder}/index.json") as file:
            index = json.load(file)["manifests"][0]["digest"]
        with open(f"{folder}/blobs/{index.replace(':', '/')}") as file:
            return [layer["digest"] for layer in json.load(file)["layers"]]

    # --- the whole ---

    def round(self):
        self.longshore("Longshore", "six")
        self.containerd_1("containerd 1.6", "six")
        self.longshore("Longshore, blobs kept, synced", "six", "--keep-blobs", "--synced")
        if self.asked.containerd2:
            self.containerd_2("containerd 2, two unpacks", "six")
        self.podman("podman", "six")
        self.longshore("Longshore, ten tasks", "six", "--tasks", "10")
        self.floor("floor", "six")
        self.longshore("Longshore, one layer", "single")
        self.floor("floor, one layer", "single")
        self.longshore("Longshore, zstd", "zstd")
        self.containerd_1("containerd 1.6, zstd", "zstd")
        self.longshore("Longshore, warm", "six", "--warm")
        self.longshore("Longshore, beside a removal", "six", "--beside-removal", self.reference("many"))
        if self.asked.far:
            self.longshore("Longshore, 1 Gbit/s", "six", host=self.asked.far)
            self.wire("1 Gbit/s wire", "six", self.asked.far)
            self.containerd_1("containerd 1.6, 1 Gbit/s", "six", host=self.asked.far)

    def median(self, row, figure="seconds"):
        values = self.figures.get(row, {}).get(figure)
        return statistics.median(values) if values else None

    def report(self):
        print(f"\n{'':38} {'median s':>9} {'min':>8} {'max':>8} {'CPU-s':>7} {'MiB added':>10} {'gap ms':>7}")
        for row, figures in self.figures.items():
            seconds = figures["seconds"]
            more = [self.median(row, figure) for figure in ("cpu", "added_mib", "gap_ms")]
            cpu, added, gap = ("" if value is None else f"{value:.2f}" for value in more)
            print(f"{row:38} {statistics.median(seconds):9.3f} {min(seconds):8.3f} {max(seconds):8.3f} {cpu:>7} {added:>10} {gap:>7}")
        steps = self.figures["floor"]
        shown = ", ".join(f"{name} {statistics.median(steps[name]):.2f}" for name in steps if name not in ("seconds", "cpu"))
        print(f"\nThe floor's steps, one thread each: {shown}\n")
        for what, row, against in [
            ("cold / containerd 1.6", "Longshore", "containerd 1.6"),
            ("blobs kept, synced / containerd 1.6", "Longshore, blobs kept, synced", "containerd 1.6"),
            ("cold / containerd 2", "Longshore", "containerd 2, two unpacks"),
            ("cold / podman", "Longshore", "podman"),
            ("cold / floor", "Longshore", "floor"),
            ("one layer / six", "Longshore, one layer", "Longshore"),
            ("zstd / containerd 1.6 zstd", "Longshore, zstd", "containerd 1.6, zstd"),
            ("ten tasks / one", "Longshore, ten tasks", "Longshore"),
            ("1 Gbit/s / wire", "Longshore, 1 Gbit/s", "1 Gbit/s wire"),
        ]:
            one, other = self.median(row), self.median(against)
            if one and other:
                print(f"{what:38} {one / other:.3f}")
        allowed = [share for figures in self.figures.values() for share in figures.get("of_allowed", [])]
        print(f"{'largest memory / (32 MiB + 4 a layer)':38} {max(allowed):.3f}")
        alone, beside = (self.median(row, "gap_ms") for row in ("Longshore", "Longshore, beside a removal"))
        print(f"{'longest gap: alone, beside a removal':38} {alone:.0f} ms, {beside:.0f} ms")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, required=True)
    for name in ("work", "short", "near", "images", "examples"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--far")
    parser.add_argument("--containerd2")
    bench = Bench(parser.parse_args())
    for number in range(1, bench.asked.runs + 1):
        print(f"\nRun {number}", flush=True)
        bench.round()
    bench.report()


if __name__ == "__main__":
    main()
