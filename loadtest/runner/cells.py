"""What is measured. A cell is one row of the table; each is measured for every
proxy in every round, in turn, so that a noisy neighbour meets all of them."""

import contextlib
import dataclasses
import os
import signal
import threading
import time
from typing import Callable

from . import loaders, machine, packets
from .machine import Failed
from .proxies import NAMES, RELAY, Proxy, Upstream

#: Straight to the upstream: what the proxies add is counted from here.
DIRECT = "Direct"
#: Seconds after its start when a proxy is idle.
IDLE = 2
#: Bytes of an answer's message on the wire, and messages of a streamed answer.
GRPC_REPLY, STREAM_MESSAGES = 133, 50


@dataclasses.dataclass(frozen=True)
class Cell:
    name: str
    group: str
    title: str
    proxies: tuple
    measure: Callable
    settings: dict


class World:
    """Upstreams and proxies of a run, started when first needed. Whoever is not
    being measured is stopped by a signal, so that its housekeeping disturbs no
    one."""

    def __init__(self, tools, directory, seconds, latency_seconds):
        self.tools, self.directory = tools, directory
        self.seconds, self.latency_seconds = seconds, latency_seconds
        self.upstreams, self.proxies = {}, {}
        self.log = open(os.path.join(directory, "tools.log"), "ab")

    def upstream(self, workers):
        if workers not in self.upstreams:
            self.upstreams[workers] = Upstream(self.tools, workers, self.directory)
        return self.upstreams[workers]

    def proxy(self, name, workers=1, models=0, variant=""):
        """A running proxy, all others stopped."""
        key = (name, workers, models, variant)
        for other, proxy in self.proxies.items():
            if other != key:
                self._signal(proxy, signal.SIGSTOP)
        if key in self.proxies:
            self._signal(self.proxies[key], signal.SIGCONT)
        else:
            self.proxies[key] = Proxy(name, self.tools, self.upstream(workers), self.directory,
                                      workers, models)
            time.sleep(IDLE)
            self.proxies[key].idle_mib = self.proxies[key].resident()
        return self.proxies[key]

    @staticmethod
    def _signal(proxy, number):
        pids = machine.family(proxy.pid)
        if proxy.control:
            pids.append(proxy.control.process.pid)
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def stop(self):
        for proxy in self.proxies.values():
            self._signal(proxy, signal.SIGCONT)
            proxy.stop()
        for upstream in self.upstreams.values():
            upstream.stop()
        self.proxies, self.upstreams = {}, {}


def counted(proxy, load):
    """CPU per completed request of a load, after a second of it as warm-up."""
    load(1)
    before, started = proxy.cpu(), time.monotonic()
    result = load(None)
    spent, took = proxy.cpu() - before, time.monotonic() - started
    if not result["completed"]:
        raise Failed(f"nothing was completed: {result['errors']}")
    values = {"cpu_us": spent / result["completed"] * 1e6, "per_second": result["completed"] / took}
    return values, result["errors"]


def cpu_http1(world, name, settings):
    proxy = world.proxy(name)
    return counted(proxy, lambda seconds: loaders.wrk(
        world.tools, world.directory, proxy.http, seconds or world.seconds, 16, **settings))


def cpu_grpc(world, name, settings):
    proxy = world.proxy(name)
    messages = STREAM_MESSAGES if settings["model"] == "stream" else 1
    values, errors = counted(proxy, lambda seconds: loaders.h2load(
        world.tools, world.directory, proxy.grpc, seconds or world.seconds,
        reply_bytes=GRPC_REPLY * messages, **settings))
    return {key: value / messages if key == "cpu_us" else value * messages
            for key, value in values.items()}, errors


def open_loop(world, port, seconds, rate, connections, workers=1, **load):
    """A load at a rate, while nothing but the load and the proxy costs time."""
    upstream = world.upstream(workers).process.pid
    with machine.Awake(), machine.First(upstream):
        return loaders.oha(world.tools, port, seconds, rate, connections, workers, **load)


def latency(world, name, settings):
    rate, connections, workers = settings["rate"], settings["connections"], settings["workers"]
    streams = settings.get("streams", 0)
    if name == DIRECT:
        for proxy in world.proxies.values():
            world._signal(proxy, signal.SIGSTOP)
        # The upstream speaks HTTP/1.1 there: a connection for each stream.
        port, connections, streams = world.upstream(workers).http, connections * max(streams, 1), 0
    else:
        proxy = world.proxy(name, workers)
        port = proxy.grpc if streams else proxy.http
    load = lambda seconds: open_loop(world, port, seconds, rate, connections, workers,
                                     delay_ms=5, streams=streams)
    load(1)
    result = load(world.latency_seconds)
    return dict(result["ms"]), result["errors"]


def neighbour(world, name, settings):
    """Latency while a process that never waits shares the proxy's core, as model
    servers on the same machine do. The same load past the proxy stays quiet."""
    if name != DIRECT:
        world.proxy(name, settings["workers"])
    with machine.Neighbour(machine.proxy_cores(settings["workers"])):
        return latency(world, name, settings)


def models(world, name, settings):
    count = settings["models"]
    proxy = world.proxy(name, models=count)
    values, errors = counted(proxy, lambda seconds: loaders.wrk(
        world.tools, world.directory, proxy.http, seconds or world.seconds, 16, models=count))
    # Only this load's connections: what is idle has been closed or is reused.
    values["sockets"] = proxy.sockets()
    result = open_loop(world, proxy.http, world.latency_seconds, 200, 16, models=count)
    values |= {key: result["ms"].get(key) for key in ("p50", "p95", "p99")}
    values["idle_mib"], values["mib"] = proxy.idle_mib, proxy.resident()
    return values, errors + result["errors"]


@contextlib.contextmanager
def changing(proxy, seconds):
    """20 changes a second for so long, if at all; what the control plane says of them is
    there at the end."""
    told = {}
    if seconds:
        proxy.control.send(f"churn 20 {seconds}")
    try:
        yield told
    finally:
        if seconds:
            told.update(proxy.control.answer())


def updates(world, name, settings):
    proxy = world.proxy(name, models=settings["models"])
    values = {}
    flips = proxy.control.ask("flip 10")
    for key in ("in_force_ms", "after_arrival_ms"):
        values[key] = sorted(flips[key])[len(flips[key]) // 2]
        values["worst_" + key] = max(flips[key])
    if not settings.get("churn", True):
        return values, []
    # The same on a core that the worker would have for itself.
    busy = threading.Thread(target=loaders.wrk, args=(world.tools, world.directory, proxy.http,
                                                      world.latency_seconds, 16))
    busy.start()
    flips = proxy.control.ask_first("flip 10")
    busy.join()
    values["busy_after_arrival_ms"] = sorted(flips["after_arrival_ms"])[5]
    values["worst_busy_after_arrival_ms"] = max(flips["after_arrival_ms"])
    seconds, errors = world.latency_seconds, []
    direct = world.upstream(1).http
    size = int(flips["bytes"])
    # Quiet and under change, through the proxy and past it: what the second pair
    # shows is the disturbance of the load generator, which shares a core with the
    # control plane.
    for prefix, port in (("", proxy.http), ("direct_", direct)):
        for state in ("quiet", "churn"):
            before = proxy.cpu()
            with changing(proxy, seconds if state == "churn" else 0) as told:
                result = open_loop(world, port, seconds, 500, 16)
                spent = proxy.cpu() - before
            values[f"{prefix}{state}_p99"] = result["ms"]["p99"]
            values[f"{prefix}{state}_cpu"] = spent
            errors += [f"{prefix}{state}: {error}" for error in result["errors"]]
            if state == "churn":
                values["changes"] = told["changes"]
                if not proxy.control.ask("wait")["settled"]:
                    errors.append(f"{prefix}churn: not acknowledged within 60 s")
    for state in ("quiet", "churn"):
        with changing(proxy, seconds if state == "churn" else 0):
            held, failed = within(world, proxy, seconds, 500, 16)
        values |= {f"within_{state}_{key}": value for key, value in held.items()}
        errors += [f"within, {state}: {error}" for error in failed]
    proxy.control.ask("wait")
    # As much for a process that looks at nothing, in the control thread's place.
    with machine.Pour(world.tools, world.log, size, 20):
        result = open_loop(world, proxy.http, seconds, 500, 16)
        held, failed = within(world, proxy, seconds, 500, 16)
    values |= {"pour_p99": result["ms"]["p99"], "within_pour_p99_us": held["p99_us"]}
    errors += [f"pour: {error}" for error in (*result["errors"], *failed)]
    spent = values["direct_churn_cpu"] - values["direct_quiet_cpu"]
    values["cpu_ms_per_update"] = spent / values["changes"] * 1e3
    return values, errors


def within(world, proxy, seconds, rate, connections, **load):
    """Percentiles of the time within the proxy, and errors."""
    with packets.Capture(world.directory, proxy.http, world.upstream(1).http) as capture:
        result = open_loop(world, proxy.http, seconds, rate, connections, tagged=True, **load)
    found = capture.within_us()
    if len(found) < 0.98 * result["completed"]:
        raise Failed(f"{len(found)} of {result['completed']} requests were seen")
    at = lambda share: found[min(int(share * len(found)), len(found) - 1)]
    return {"p50_us": at(0.5), "p95_us": at(0.95), "p99_us": at(0.99)}, result["errors"]


def time_within(world, name, settings):
    proxy = world.proxy(name)
    load = dict(rate=settings["rate"], connections=settings["connections"], delay_ms=5)
    open_loop(world, proxy.http, 1, **load)
    return within(world, proxy, world.latency_seconds, **load)


def quota(world, name, settings):
    if name == DIRECT:
        return latency(world, name, dict(settings, workers=1))
    proxy = world.proxy(name, variant="quota")
    group = machine.Quota(f"radiant-loadtest-{os.getpid()}", settings["cpus"])
    try:
        group.add(proxy.pid)
        if settings.get("rate"):
            load = lambda seconds: open_loop(world, proxy.http, seconds, settings["rate"],
                                             settings["connections"], delay_ms=5)
            load(1)
            result = load(world.latency_seconds)
            return dict(result["ms"]), result["errors"]
        values, errors = counted(proxy, lambda seconds: loaders.wrk(
            world.tools, world.directory, proxy.http, seconds or world.seconds, 16))
        return values, errors
    finally:
        group.remove()


def all_cells():
    cells = []

    def add(name, group, title, measure, proxies=NAMES, **settings):
        cells.append(Cell(name, group, title, tuple(proxies), measure, settings))

    add("http1-1k", "cpu", "HTTP/1.1, request of 1 KB", cpu_http1, (*NAMES, RELAY))
    for name, size in (("64k", 65_536), ("1m", 1 << 20)):
        add(f"request-{name}", "cpu", f"HTTP/1.1, request of {name.upper()}B", cpu_http1, body=size)
    for name, size in (("64k", 65_536), ("1m", 1 << 20)):
        add(f"response-{name}", "cpu", f"HTTP/1.1, response of {name.upper()}B", cpu_http1,
            method="GET", body=0, reply=size)
    add("grpc-128", "cpu", "gRPC unary, 128 B (8 connections x 8 streams)", cpu_grpc,
        model="iris", body=128)
    add("grpc-64k", "cpu", "gRPC unary, request of 64 KB", cpu_grpc, model="iris", body=65_536)
    add("grpc-stream", "cpu", "gRPC streaming, per message of 128 B", cpu_grpc,
        model="stream", body=128)
    for workers in (1, 2):
        for connections in (4, 400):
            for rate in (500, 2000):
                # 4 connections of HTTP/1.1 cannot carry 2,000 requests of 5 ms.
                streams = 8 if rate * 0.005 > connections else 0
                add(f"latency-{rate}-{connections}-{workers}", "latency",
                    f"{rate} rps, {connections} connections"
                    + (f" of HTTP/2 with {streams} streams" if streams else "")
                    + f", {workers} worker" + ("s" if workers > 1 else ""),
                    latency, (DIRECT, *NAMES), rate=rate, connections=connections, workers=workers,
                    streams=streams)
    for rate, connections in ((500, 4), (500, 400), (2000, 400)):
        add(f"within-{rate}-{connections}", "within", f"{rate} rps, {connections} connections",
            time_within, rate=rate, connections=connections)
    add("neighbour-500", "neighbour", "500 rps, 4 connections, 1 worker", neighbour,
        (DIRECT, *NAMES), rate=500, connections=4, workers=1)
    for count in (1, 1000, 10_000, 100_000):
        who = ("Radiant", "HAProxy") if count > 10_000 else ("Radiant", "Envoy", "HAProxy")
        add(f"models-{count}", "models", f"{count:,} model{'s' * (count > 1)}", models, who, models=count)
    add("updates-1000", "updates", "1,000 models", updates, ("Radiant", "Envoy"), models=1000)
    add("updates-10000", "updates", "10,000 models", updates, ("Radiant",), models=10_000)
    add("flips-10000", "updates", "10,000 models, weights only", updates, ("Radiant", "Envoy"),
        models=10_000, churn=False)
    add("quota-throughput", "quota", "most requests per second, 1 KB", quota, NAMES, cpus=0.5)
    for rate in (250, 500, 1000, 2000, 4000):
        add(f"quota-{rate}", "quota", f"{rate} rps, 5 ms upstream, 40 connections", quota,
            (DIRECT, *NAMES), cpus=0.5, rate=rate, connections=40)
    return cells
