#!/usr/bin/env python3
"""Instructions of the pure parts, counted by callgrind: noise does not move them.

    benches/instructions.py              compares with benches/instructions.txt
    benches/instructions.py --accept     writes it

Each operation is done N times and 2N times; the difference, divided by N, is what
one costs, whatever the program does before. More than the baseline by TOLERANCE
fails; less by as much asks for --accept, so that what was gained is held. Needs
valgrind (Debian package "valgrind"). The figures belong to one compiler: its
version is in the baseline, and another one's figures are shown, not judged.
"""

import json
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BASELINE = os.path.join(ROOT, "benches/instructions.txt")
#: Relative. The same binary varies by less than 0.5 % (hash seeds, addresses).
TOLERANCE = 0.03


def build():
    out = subprocess.run(
        ["cargo", "bench", "--bench", "instructions", "--no-run", "--locked",
         "--message-format=json"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    for line in out.splitlines():
        message = json.loads(line)
        if message.get("target", {}).get("name") == "instructions" and message.get("executable"):
            return message["executable"]
    sys.exit("FAILED: cargo built no executable for benches/instructions.rs")


def count(program, name, times):
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, name, str(times)],
        capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or not found:
        sys.exit(f"FAILED: {name} under valgrind:\n{done.stderr[-2000:]}")
    return int(found.group(1))


def measure(program):
    listed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        name, times = line.split()
        times = int(times)
        yield name, (count(program, name, 2 * times) - count(program, name, times)) / times


def read_baseline():
    figures, compiler = {}, ""
    with open(BASELINE) as lines:
        for line in lines:
            if line.startswith("# rustc"):
                compiler = line[2:].strip()
            elif not line.startswith("#"):
                name, value = line.split()
                figures[name] = float(value)
    return compiler, figures


def main():
    compiler = subprocess.run(["rustc", "--version"], capture_output=True, text=True,
                              check=True).stdout.strip()
    figures = dict(measure(build()))
    if "--accept" in sys.argv[1:]:
        with open(BASELINE, "w") as out:
            out.write("# Instructions per operation; written by benches/instructions.py --accept.\n")
            out.write(f"# {compiler}\n")
            out.writelines(f"{name} {value:.0f}\n" for name, value in figures.items())
        print(f"wrote {len(figures)} figures")
        return 0
    known_compiler, known = read_baseline()
    failed = set(known) ^ set(figures)
    for name in sorted(failed):
        print(f"{name}: in the baseline or in the program, not in both")
    for name, value in figures.items():
        before = known.get(name)
        if before is None:
            continue
        change = value / before - 1
        verdict = "ok"
        if abs(change) > TOLERANCE:
            verdict = "MORE" if change > 0 else "less: run with --accept"
            failed.add(name)
        print(f"{name:24} {value:12.0f} {before:12.0f} {change:+7.1%} {verdict}")
    if compiler != known_compiler:
        print(f"not judged: the baseline is of {known_compiler}, this is {compiler}")
        return 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
