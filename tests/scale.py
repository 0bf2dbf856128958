#!/usr/bin/env python3
"""Start-up time, memory and CPU per request at 1 and at 10,000 models.

    tests/scale.py [MODELS ...]        default: 1 10000

Starts `radiant demo --no-proxy` (the embedded scheduler and model servers) and,
against it, the proxy: times from its start to the first 200, reads its resident
memory, then has wrk ask for a random one of the models and counts the proxy's
CPU time (user and system) per request. The proxy has one worker, pinned to core
0; everything else runs on core 1. Rounds alternate between the sizes, so that a
noisy neighbour meets both.

Needs wrk (Debian package "wrk") and target/release/radiant. Variables: RADIANT
(the binary), ROUNDS (5), SECONDS_PER_ROUND (4).
"""

import http.client
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

RADIANT = os.environ.get("RADIANT", "target/release/radiant")
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = int(os.environ.get("SECONDS_PER_ROUND", "4"))
TICK = os.sysconf("SC_CLK_TCK")


def pin(core):
    return lambda: os.sched_setaffinity(0, {core})


class Mesh:
    """Scheduler and model servers, and the proxy under test."""

    def __init__(self, models, port):
        self.models, self.port = models, port
        self.log = open(os.path.join(tempfile.gettempdir(), f"radiant-scale-{models}.log"), "wb")
        self.scheduler = subprocess.Popen(
            [RADIANT, "demo", "--no-proxy", "--port", str(port), "--models", str(models)],
            stdout=self.log, stderr=self.log, preexec_fn=pin(1))
        wait(lambda: get(port + 4, "/state")[0] == 200, 60)
        self.proxy = None

    def start_proxy(self):
        """Starts the proxy; seconds until the first 200."""
        env = dict(os.environ, SELDON_SCHEDULER_HOST="127.0.0.1",
                   SELDON_SCHEDULER_PORT=str(self.port + 2))
        path = os.path.join(tempfile.gettempdir(), f"radiant-scale-{self.port}.yaml")
        with open("config/envoy.yaml") as source, open(path, "w") as out:
            out.write(source.read()
                      .replace("port_value: 9003", f"port_value: {self.port + 3}")
                      .replace("port_value: 9901", f"port_value: {self.port + 5}")
                      .replace("port_value: 9002", f"port_value: {self.port + 2}")
                      .replace("address: seldon-scheduler", "address: 127.0.0.1"))
        started = time.monotonic()
        self.proxy = subprocess.Popen(
            [RADIANT, "run", "-c", path, "--concurrency", "1"],
            stdout=self.log, stderr=self.log, env=env, preexec_fn=pin(0))
        wait(lambda: get(self.port, "/v2/models/model-00000/ready")[0] == 200, 60, 0.001)
        return time.monotonic() - started

    def stop_proxy(self):
        self.proxy.send_signal(signal.SIGTERM)
        assert self.proxy.wait(30) == 0, "the proxy did not end with exit code 0"

    def resident(self):
        with open(f"/proc/{self.proxy.pid}/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))

    def cpu(self):
        with open(f"/proc/{self.proxy.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def round(self):
        """CPU microseconds per request of one round of wrk."""
        script = os.path.join(tempfile.gettempdir(), f"radiant-scale-{self.models}.lua")
        with open(script, "w") as out:
            out.write(f"""
local body = string.rep("x", 1024)
request = function()
  local name = string.format("model-%05d", math.random(0, {self.models - 1}))
  return wrk.format("POST", "/v2/models/" .. name .. "/infer",
    {{["content-type"] = "application/octet-stream", ["seldon-model"] = name}}, body)
end""")
        before = self.cpu()
        out = subprocess.run(
            ["wrk", "-t1", "-c16", f"-d{SECONDS}", "-s", script, f"http://127.0.0.1:{self.port}"],
            capture_output=True, text=True, preexec_fn=pin(1), check=True).stdout
        requests = next(int(l.split()[0]) for l in out.splitlines() if " requests in " in l)
        return (self.cpu() - before) / requests * 1e6

    def stop(self):
        if self.proxy and self.proxy.poll() is None:
            self.stop_proxy()
        self.scheduler.terminate()
        self.scheduler.wait(10)


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def wait(condition, limit, step=0.02):
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            sys.exit("FAILED: waited too long")
        time.sleep(step)


def spread(values, unit, digits=1):
    return (f"{statistics.median(values):.{digits}f} {unit} "
            f"({min(values):.{digits}f} to {max(values):.{digits}f})")


def main():
    sizes = [int(n) for n in sys.argv[1:]] or [1, 10_000]
    meshes = [Mesh(n, 22000 + 10 * i) for i, n in enumerate(sizes)]
    try:
        for mesh in meshes:
            starts = []
            for last in [False] * (ROUNDS - 1) + [True]:
                starts.append(mesh.start_proxy() * 1e3)
                if not last:
                    mesh.stop_proxy()
            print(f"{mesh.models} models: start to first 200 {spread(starts, 'ms', 0)}, "
                  f"resident {mesh.resident():.1f} MiB")
        costs = {mesh.models: [] for mesh in meshes}
        for _ in range(ROUNDS):
            for mesh in meshes:
                costs[mesh.models].append(mesh.round())
        for mesh in meshes:
            print(f"{mesh.models} models, a random one per request: CPU "
                  f"{spread(costs[mesh.models], 'us')} per request, "
                  f"resident {mesh.resident():.1f} MiB")
        first = statistics.median(costs[sizes[0]])
        for n in sizes[1:]:
            print(f"{n} models cost {statistics.median(costs[n]) / first:.3f} times {sizes[0]}")
    finally:
        for mesh in meshes:
            mesh.stop()


if __name__ == "__main__":
    main()
