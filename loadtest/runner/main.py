"""The command: arguments, the order of the measurements, the files."""

import argparse
import datetime
import json
import os
import sys
import tempfile
import time

from . import cells, machine, pairs, report, url, waits
from .machine import Failed
from .proxies import Tools

#: One cell of each kind; a second each.
QUICK = ("http1-1k", "response-64k", "grpc-128", "grpc-stream", "latency-500-4-1", "models-1000",
         "updates-1000", "quota-throughput")


def parse(arguments, usage):
    parser = argparse.ArgumentParser(description=usage,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="CELL", help="cells whose names begin so")
    parser.add_argument("--proxies", nargs="+", metavar="NAME", help="measure only these")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round", type=int, help="measure this round only")
    parser.add_argument("--seconds", type=int, default=3, help="of a CPU measurement")
    parser.add_argument("--latency-seconds", type=int, default=5, help="of a latency measurement")
    parser.add_argument("--name", default=datetime.date.today().isoformat())
    parser.add_argument("--quick", action="store_true", help="smoke run, nothing is kept")
    parser.add_argument("--report", action="store_true", help="write the report of what was measured")
    parser.add_argument("--base", metavar="BINARY",
                        help="another build of Radiant: both in turn, and their ratios")
    parser.add_argument("--waits", type=int, metavar="MODELS",
                        help="who waits for a core under 20 changes a second (perf)")
    parser.add_argument("--list", action="store_true", help="list the cells")
    parser.add_argument("--url", help="measure this URL instead")
    parser.add_argument("-H", "--header", action="append", default=[], help="with --url: a header")
    parser.add_argument("--body", help="with --url: a file to POST")
    parser.add_argument("--rate", type=int, default=100, help="with --url: requests per second")
    parser.add_argument("--connections", type=int, default=16, help="with --url")
    return parser.parse_args(arguments)


def chosen(options):
    wanted = options.only or (QUICK if options.quick else None)
    known = {c.name for c in cells.all_cells()}
    fits = lambda name, word: name == word if word in known else name.startswith(word)
    found = [c for c in cells.all_cells() if not wanted or any(fits(c.name, w) for w in wanted)]
    if not found:
        raise Failed(f"no cell begins with {' or '.join(wanted)}: see --list")
    return found


def measure(world, cell, name, number):
    """One measurement as a record; what fails is a record too."""
    record = {"cell": cell.name, "proxy": name, "round": number, "values": {}, "errors": []}
    try:
        record["values"], record["errors"] = cell.measure(world, name, cell.settings)
    except Failed as error:
        record["errors"] = [str(error)]
    return record


def show(record):
    numbers = " ".join(f"{key}={value:.4g}" for key, value in record["values"].items()
                       if isinstance(value, (int, float)))
    errors = f"  INVALID: {'; '.join(record['errors'])}" if record["errors"] else ""
    print(f"{record['cell']:18} round {record['round']} {record['proxy']:8} {numbers}{errors}",
          flush=True)


def run_cells(options, tools, out):
    """All measurements, cell by cell within a round; true if all are valid."""
    wanted = chosen(options)
    rounds = [options.round] if options.round else range(1, options.rounds + 1)
    valid = True
    with tempfile.TemporaryDirectory(prefix="radiant-loadtest-") as directory:
        os.chmod(directory, 0o755)  # NGINX's workers are another user
        world = cells.World(tools, directory, options.seconds, options.latency_seconds)
        try:
            for number in rounds:
                for cell in wanted:
                    for name in cell.proxies:
                        if options.proxies and name not in (*options.proxies, cells.DIRECT):
                            continue
                        record = measure(world, cell, name, number)
                        valid &= not record["errors"]
                        show(record)
                        if out:
                            out.write(json.dumps(record) + "\n")
                            out.flush()
        finally:
            world.stop()
    return valid


def main(root, usage):
    options = parse(sys.argv[1:], usage)
    tools = Tools(root)
    try:
        if options.list:
            for cell in cells.all_cells():
                print(f"{cell.name:18} {cell.group:8} {cell.title}: {', '.join(cell.proxies)}")
            return 0
        if options.url:
            tools.check(["oha", "k6"])
            return url.measure(tools, options)
        if options.base:
            tools.base = os.path.abspath(options.base)
            tools.check(["radiant", "base", "oha", "upstream", "control", "pour"])
            return 0 if pairs.measure(tools, chosen(options), options) else 1
        if options.waits:
            tools.check(["radiant", "oha", "upstream", "control"])
            waits.measure(tools, options.waits, options.latency_seconds)
            return 0
        raw = os.path.join(root, "target/loadtest/raw", options.name)
        if not options.report:
            tools.check(["radiant", "envoy", "oha", "upstream", "control", "relay", "pour"])
            if options.quick:
                options.rounds = options.seconds = 1
                options.latency_seconds = 2
                return 0 if run_cells(options, tools, None) else 1
            os.makedirs(raw, exist_ok=True)
            with open(os.path.join(raw, "machine.json"), "w") as out:
                json.dump(machine.describe(tools), out, indent=1)
            with open(os.path.join(raw, f"{time.time_ns()}.jsonl"), "w") as out:
                run_cells(options, tools, out)
        print(report.write(raw, os.path.join(root, "loadtest/results"), options.name))
    except Failed as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    return 0
