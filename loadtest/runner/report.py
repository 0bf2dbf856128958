"""The report: what was measured, as tables of medians and ranges, as plots, and
against the project's targets."""

import collections
import glob
import json
import os
import statistics

from . import cells, plots, targets
from .machine import Failed
from .proxies import NAMES

#: The values of a group of cells that are shown: key, title.
COLUMNS = {
    "cpu": [("cpu_us", "CPU per request, us"), ("per_second", "requests per second")],
    "latency": [("added_p95", "added P95, ms"), ("added_p99", "added P99, ms")],
    "within": [("p50_us", "P50, us"), ("p95_us", "P95, us"), ("p99_us", "P99, us")],
    "neighbour": [("added_p50", "added P50, ms"), ("added_p95", "added P95, ms"),
                  ("added_p99", "added P99, ms")],
    "models": [("cpu_us", "CPU per request, us"), ("p99", "P99 at 200 rps, ms"),
               ("idle_mib", "resident before load, MiB"), ("mib", "resident under load, MiB"),
               ("sockets", "upstream connections")],
    "updates": [("in_force_ms", "in force after the scheduler's call, ms"),
                ("after_arrival_ms", "in force after arrival at the proxy, ms"),
                ("quiet_p99", "P99 quiet, ms"), ("churn_p99", "P99 under 20 changes/s, ms"),
                ("pour_p99", "P99 beside a process that only takes as many bytes in, ms"),
                ("direct_churn_p99", "P99 under 20 changes/s past the proxy, ms"),
                ("within_quiet_p99_us", "P99 within the proxy, quiet, us"),
                ("within_churn_p99_us", "P99 within the proxy under 20 changes/s, us"),
                ("within_pour_p99_us", "P99 within the proxy beside a process that only takes as many bytes in, us"),
                ("busy_after_arrival_ms", "in force after arrival, worker saturated, ms"),
                ("worst_busy_after_arrival_ms", "the slowest of ten, ms"),
                ("cpu_ms_per_update", "CPU per change, ms")],
    "quota": [("per_second", "requests per second"), ("added_p95", "added P95, ms"),
              ("added_p99", "added P99, ms")],
}
TITLES = {
    "cpu": "CPU per request",
    "latency": "Added latency, upstream of 5 ms",
    "within": "Time within the proxy, by packets, upstream of 5 ms, 1 worker",
    "neighbour": "Added latency beside a busy process on the proxy's core",
    "models": "Many models, a random one per request",
    "updates": "Changed weights",
    "quota": "Half a CPU (cgroup quota)",
}


class Results:
    """Records by cell and proxy; of a round measured twice, the later one."""

    def __init__(self, raw):
        self.records = {}
        for path in sorted(glob.glob(os.path.join(raw, "*.jsonl"))):
            with open(path) as lines:
                for line in lines:
                    record = json.loads(line)
                    self.records[record["cell"], record["proxy"], record["round"]] = record
        if not self.records:
            raise Failed(f"nothing was measured yet in {raw}")
        self._add_latencies()

    def _add_latencies(self):
        """What a proxy adds: its percentile less that of the upstream alone, in
        the same round."""
        for (cell, proxy, number), record in self.records.items():
            direct = self.records.get((cell, cells.DIRECT, number))
            if direct and proxy != cells.DIRECT:
                for name in ("p50", "p95", "p99"):
                    mine, base = record["values"].get(name), direct["values"].get(name)
                    if mine is not None and base is not None:
                        record["values"]["added_" + name] = mine - base

    def values(self, cell, proxy, key):
        """Of the valid rounds."""
        return [r["values"][key] for (c, p, _), r in sorted(self.records.items())
                if (c, p) == (cell, proxy) and not r["errors"] and r["values"].get(key) is not None]

    def measured(self, cell, proxy):
        """True if there was a round, valid or not."""
        return any((c, p) == (cell, proxy) for c, p, _ in self.records)

    def median(self, cell, proxy, key):
        found = self.values(cell, proxy, key)
        return statistics.median(found) if found else None

    def errors(self):
        by_what = collections.Counter()
        for (cell, proxy, _), record in sorted(self.records.items()):
            for error in record["errors"]:
                by_what[cell, proxy, error] += 1
        return by_what

    def rounds(self):
        return max(number for _, _, number in self.records)


def number(value):
    """Three digits that say something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 1 else f"{value:.2f}"


def spread(found):
    if not found:
        return "-"
    median = number(statistics.median(found))
    if len(found) == 1:
        return median
    return f"{median} ({number(min(found))} to {number(max(found))})"


def table(results, group, key, title):
    """One value of a group: a row per cell, a column per proxy."""
    rows = []
    for cell in (c for c in cells.all_cells() if c.group == group):
        found = [results.values(cell.name, name, key) for name in NAMES]
        if any(found):
            rows.append([cell.title, *(spread(values) for values in found)])
    if not rows:
        return []
    lines = [f"**{title}**", "", "| | " + " | ".join(NAMES) + " |", "|---" * (len(NAMES) + 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def write(raw, directory, name):
    """The report and its plots; returns the report's path."""
    results = Results(raw)
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(raw, "machine.json")) as source:
        machine = json.load(source)
    lines = [f"# Load test of {name}", ""]
    lines += ["Made by `loadtest/run`. Medians of at most "
              f"{results.rounds()} rounds, in brackets the smallest and the largest; proxies were measured in "
              "turn within each round. One worker on core 0, load and upstream on core 1, if not "
              "said otherwise; with two workers everybody shares both cores. CPU is user and system "
              "time of the proxy's process and threads. While latency is measured, idle "
              "cores poll and the upstream goes before the load generator. A round in which "
              "anything failed is not counted and is listed at the end.", ""]
    lines += ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in machine.items()), ""]
    lines += ["## Targets", "", *targets.lines(results), ""]
    images = plots.draw(results, directory, name)
    for group, columns in COLUMNS.items():
        tables = [line for column in columns for line in table(results, group, *column)]
        if tables:
            lines += [f"## {TITLES[group]}", "", *tables]
            lines += [line for image in images.get(group, ()) for line in (f"![{TITLES[group]}]({image})", "")]
    lines += ["## Rounds that were not counted", ""]
    errors = results.errors()
    lines += [f"- {cell}, {proxy}: {error} ({times} times)"
              for (cell, proxy, error), times in errors.items()] or ["None."]
    path = os.path.join(directory, f"{name}.md")
    with open(path, "w") as out:
        out.write("\n".join(lines).rstrip() + "\n")
    return path
