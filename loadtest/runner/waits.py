"""Who waits for a core while routes change: every wake-up of both cores over some
seconds of `perf sched`, by thread."""

import collections
import os
import subprocess
import tempfile

from . import cells, loaders, machine
from .machine import Failed

#: Threads by the beginning of their names, as a reader knows them.
KNOWN = (("worker", "Radiant's worker"), ("control", "control thread, and the control plane's"),
         ("tokio-rt-worker", "load generator"), ("upstream", "upstream"))
#: A wait that is told, ms.
LONG = 0.3


def measure(tools, count, seconds):
    """Prints, for `count` models with 20 changes a second under 500 requests a
    second, how many wake-ups waited longer than [`LONG`] for their core."""
    with tempfile.TemporaryDirectory(prefix="radiant-loadtest-") as directory:
        world = cells.World(tools, directory, seconds, seconds)
        trace = os.path.join(directory, "sched.data")
        try:
            proxy = world.proxy("Radiant", models=count)
            upstream = world.upstream(1).process.pid
            proxy.control.send(f"churn 20 {seconds + 2}")
            with machine.Awake(), machine.First(upstream):
                perf = subprocess.Popen(
                    ["perf", "sched", "record", "-a", "-o", trace, "--", "sleep", str(seconds)],
                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                loaders.oha(tools, proxy.http, seconds + 1, 500, 16)
                _, said = perf.communicate()
            if perf.returncode != 0:
                raise Failed(f"perf: {said.decode()[-300:]}")
            proxy.control.answer()
        finally:
            world.stop()
        text = machine.run(["perf", "sched", "timehist", "-i", trace], machine.load_cores(2))
    print("| thread | wake-ups | waited > %.1f ms | longest, ms |\n|---|---|---|---|" % LONG)
    for title, waits in threads(text).items():
        print(f"| {title} | {len(waits)} | {sum(w > LONG for w in waits)} | {max(waits):.2f} |")


def threads(text):
    """Waits between wake-up and running, ms, by [`KNOWN`] threads."""
    waits = collections.defaultdict(list)
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 6 or not fields[1].startswith("["):
            continue
        for start, title in KNOWN:
            if fields[2].startswith(start):
                waits[title].append(float(fields[-2]))
    return waits
