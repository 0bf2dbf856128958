"""Any URL: latency by oha at a rate (coordinated omission corrected), and the k6
scenario against the same host."""

import os
import subprocess
import urllib.parse

from . import loaders, machine
from .machine import Failed

PERCENTILES = ("p50", "p90", "p95", "p99", "p99.9")


def model_of(headers, path):
    for header in headers:
        name, _, value = header.partition(":")
        if name.strip().lower() == "seldon-model":
            return value.strip()
    parts = path.split("/")
    return parts[3] if path.startswith("/v2/models/") and len(parts) > 3 else None


def measure(tools, options):
    where = urllib.parse.urlsplit(options.url)
    if not where.hostname:
        raise Failed(f"--url {options.url}: no host")
    seconds = max(options.latency_seconds, 10)
    everywhere = set(range(os.cpu_count()))
    argv = [tools.oha, "--no-tui", "--output-format", "json", "-w", "-z", f"{seconds}s", "-q",
            str(options.rate), "--latency-correction", "-c", str(options.connections)]
    for header in options.header:
        argv += ["-H", header]
    if options.body:
        argv += ["-m", "POST", "-D", options.body]
    text = machine.run([*argv, options.url], everywhere)
    result = loaders.oha_result(text, seconds, options.rate, options.connections)
    print(f"{options.url}: {options.rate} requests per second, {options.connections} connections, "
          f"{seconds} s")
    for name in PERCENTILES:
        if name in result["ms"]:
            print(f"  {name:6} {result['ms'][name]:9.2f} ms")
    for error in result["errors"]:
        print(f"  INVALID: {error}")
    model = model_of(options.header, where.path)
    if not model:
        print("k6 is left out: give -H 'Seldon-Model: NAME' or a /v2/models/NAME/infer path")
        return 1 if result["errors"] else 0
    port = where.port or (443 if where.scheme == "https" else 80)
    k6 = [tools.k6, "run", "--quiet", "--no-color", "-e", f"HOST={where.hostname}:{port}", "-e",
          f"MODEL={model}", "-e", f"RATE={options.rate}", "-e", f"SECONDS={seconds}", "-e",
          f"TLS={int(where.scheme == 'https')}", "-e",
          f"PROTO_DIR={os.path.join(tools.root, 'config')}",
          os.path.join(tools.root, "loadtest/k6/scenario.js")]
    print("k6, REST and gRPC:", flush=True)
    failed = subprocess.run(k6, check=False).returncode
    return 1 if failed or result["errors"] else 0
