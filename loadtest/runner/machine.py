"""The machine: processes pinned to cores, their CPU time, memory and sockets,
and a description for the report."""

import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import time

TICK = os.sysconf("SC_CLK_TCK")
#: The proxy alone, and everything else.
PROXY_CORE, LOAD_CORE = 0, 1


class Failed(Exception):
    """A measurement that cannot be made; its text says why."""


def proxy_cores(workers):
    """One worker has a core to itself; more share all the cores there are."""
    return {PROXY_CORE} if workers == 1 else set(range(os.cpu_count()))


def load_cores(workers):
    return {LOAD_CORE} if workers == 1 else set(range(os.cpu_count()))


def start(argv, cores, log, **kwargs):
    """A child pinned to cores, its output in a file."""
    out = kwargs.pop("stdout", log)
    return subprocess.Popen(argv, stdout=out, stderr=log,
                            preexec_fn=lambda: os.sched_setaffinity(0, cores), **kwargs)


def run(argv, cores, timeout=600, first=False):
    """A pinned command's output; fails with what it said. `first`: it goes before
    whatever else its cores have to do, if that may be asked for."""
    def pin():
        os.sched_setaffinity(0, cores)
        if first:
            go_first(0)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, preexec_fn=pin)
    if done.returncode != 0:
        raise Failed(f"{argv[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-400:]}")
    return done.stdout


def stop(process, grace=10):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def free_ports(count):
    held = []
    for _ in range(count):
        taken = socket.socket()
        taken.bind(("127.0.0.1", 0))
        held.append(taken)
    ports = [taken.getsockname()[1] for taken in held]
    for taken in held:
        taken.close()
    return ports


def wait_for(condition, what, limit=60, step=0.02):
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {limit} s")
        time.sleep(step)


def family(pid):
    """A process and its children: a master and its workers."""
    found = [pid]
    for one in found:
        try:
            for task in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{task}/children") as children:
                    found += [int(child) for child in children.read().split()]
        except OSError:
            pass
    return found


def cpu_seconds(pid):
    """User and system time of a process, its threads and its children so far."""
    total = 0
    for one in family(pid):
        with open(f"/proc/{one}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def resident_mib(pid):
    total = 0
    for one in family(pid):
        with open(f"/proc/{one}/status") as status:
            total += next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    return total / 1024


def sockets_to(pid, ports):
    """Established connections of a process to one of these ports."""
    wanted = {f"{port:04X}" for port in ports}
    inodes = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{table}") as rows:
            for row in list(rows)[1:]:
                fields = row.split()
                if fields[3] == "01" and fields[2].rsplit(":", 1)[1] in wanted:
                    inodes.add(f"socket:[{fields[9]}]")
    count = 0
    for one in family(pid):
        for fd in os.listdir(f"/proc/{one}/fd"):
            try:
                count += os.readlink(f"/proc/{one}/fd/{fd}") in inodes
            except OSError:
                pass
    return count


class Awake:
    """Keeps the cores from sleeping while latency is measured: on a virtual machine
    the wake-up of an idle core takes up to milliseconds of the host's time, more
    than any proxy adds. The kernel's own promise of no wake-up latency makes idle
    cores poll; where it cannot be had, a loop of the idle scheduling class runs on
    each. Not while CPU is counted."""

    DEVICE = "/dev/cpu_dma_latency"

    def __init__(self):
        self.loops, self.promise = [], None

    def __enter__(self):
        try:
            self.promise = os.open(self.DEVICE, os.O_WRONLY)
            os.write(self.promise, struct.pack("i", 0))
        except OSError:
            self.loops = [
                subprocess.Popen([sys.executable, "-c", "while True: pass"],
                                 preexec_fn=lambda core=core: self._idle(core))
                for core in range(os.cpu_count())]

    @staticmethod
    def _idle(core):
        os.sched_setaffinity(0, {core})
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

    def __exit__(self, *_failure):
        if self.promise is not None:
            os.close(self.promise)
        for loop in self.loops:
            loop.kill()
            loop.wait()


def go_first(thread, priority=1):
    """Makes a thread go before all of less priority; 0 is as usual. Without the
    right to ask for it, it stays as it is."""
    policy = os.SCHED_FIFO if priority else os.SCHED_OTHER
    try:
        os.sched_setscheduler(thread, policy, os.sched_param(priority))
    except PermissionError:
        pass


class First:
    """Lets a process go before all others while latency is measured, so that the
    upstream's delay is what it says: it shares its core with the load generator,
    whose slice the kernel would let run out first."""

    def __init__(self, pid):
        self.pid = pid

    def _schedule(self, priority):
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            go_first(int(thread), priority)

    def __enter__(self):
        self._schedule(2)

    def __exit__(self, *_failure):
        self._schedule(0)


class Neighbour:
    """A busy loop of ordinary priority on some cores, in a session of its own, as
    another container's process is."""

    def __init__(self, cores):
        self.cores, self.loops = cores, []

    def __enter__(self):
        self.loops = [
            subprocess.Popen([sys.executable, "-c", "while True: sum(range(1000))"],
                             start_new_session=True,
                             preexec_fn=lambda core=core: os.sched_setaffinity(0, {core}))
            for core in self.cores]

    def __exit__(self, *_failure):
        for loop in self.loops:
            loop.kill()
            loop.wait()


class Pour:
    """Bytes that come in on the proxy's core for a process as nice as a control thread,
    so many at once and so many times a second."""

    NICENESS = 10

    def __init__(self, tools, log, size, rate):
        self.tools, self.log, self.size, self.rate = tools, log, size, rate

    def __enter__(self):
        self.source = start([self.tools.pour, "from", str(self.size), str(self.rate)], {LOAD_CORE},
                            self.log, stdout=subprocess.PIPE)
        os.sched_setscheduler(self.source.pid, os.SCHED_IDLE, os.sched_param(0))
        port = self.source.stdout.readline().decode().strip()
        if not port:
            stop(self.source)
            raise Failed("pour did not start")
        self.sink = start(["nice", "-n", str(self.NICENESS), self.tools.pour, "into", port],
                          {PROXY_CORE}, self.log)

    def __exit__(self, *_failure):
        for process in (self.sink, self.source):
            process.kill()
            process.wait()


class Quota:
    """A CPU quota for a process, by whichever cgroup version can be written."""

    def __init__(self, name, cpus):
        self.v1 = f"/sys/fs/cgroup/cpu/{name}"
        self.v2 = f"/sys/fs/cgroup/{name}"
        period = 100_000
        if os.path.isdir("/sys/fs/cgroup/cpu"):
            self.path = self.v1
            files = {"cpu.cfs_period_us": period, "cpu.cfs_quota_us": int(cpus * period)}
        elif os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
            self.path = self.v2
            files = {"cpu.max": f"{int(cpus * period)} {period}"}
        else:
            raise Failed("no cgroup CPU controller is mounted")
        try:
            os.makedirs(self.path, exist_ok=True)
            for file, value in files.items():
                with open(f"{self.path}/{file}", "w") as out:
                    out.write(str(value))
        except OSError as error:
            raise Failed(f"the cgroup CPU controller cannot be used: {error}") from error

    def add(self, pid):
        for one in family(pid):
            with open(f"{self.path}/cgroup.procs", "w") as out:
                out.write(str(one))

    def remove(self):
        parent = os.path.dirname(self.path)
        with open(f"{self.path}/cgroup.procs") as members:
            for pid in members.read().split():
                with open(f"{parent}/cgroup.procs", "w") as out:
                    out.write(pid)
        os.rmdir(self.path)


def first_line(argv):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
        line = next((l for l in (done.stdout + done.stderr).splitlines() if l.strip()), "?").strip()
        return line.removeprefix(argv[0]).strip()
    except OSError as error:
        return f"missing ({error.strerror})"


def describe(tools):
    """What a reader needs to compare with another machine."""
    with open("/proc/cpuinfo") as info:
        model = next((l.split(":", 1)[1].strip() for l in info if l.startswith("model name")), "?")
    with open("/proc/meminfo") as info:
        memory = int(info.readline().split()[1]) // 1024
    with open("/proc/sys/net/ipv4/tcp_congestion_control") as value:
        congestion = value.read().strip()
    return {
        "cpu": f"{model}, {os.cpu_count()} cores",
        "memory": f"{memory} MiB",
        "kernel": f"{platform.system()} {platform.release()}, TCP {congestion}",
        "Radiant": first_line([tools.radiant, "--version"]),
        "commit": first_line(["git", "-C", tools.root, "rev-parse", "--short", "HEAD"]),
        "Envoy": first_line([tools.envoy, "--version"]),
        "HAProxy": first_line(["haproxy", "-v"]),
        "NGINX": first_line(["nginx", "-v"]),
        "oha": first_line([tools.oha, "--version"]),
        "h2load": first_line(["h2load", "--version"]),
        "wrk": first_line(["wrk", "-v"]),
        "k6": first_line([tools.k6, "version"]),
    }
