"""How long a message is within a proxy: from its last packet in to its last packet
out, by the packets of the loopback device. What the load generator and the upstream
take, and how the kernel wakes them, is not in it."""

import os
import re
import struct
import subprocess

from . import machine
from .machine import Failed

#: A request's name, in its query.
TAG = re.compile(rb"[?]t=([0-9]+) ")
#: Enough for the headers of a packet and the line of a request.
SNAP = 192


class Capture:
    """The packets between client, proxy and upstream while it is entered."""

    def __init__(self, directory, proxy, upstream):
        self.proxy, self.upstream = proxy, upstream
        self.file = os.path.join(directory, f"packets-{os.getpid()}.pcap")
        self.log = self.file + ".log"

    def __enter__(self):
        argv = ["tcpdump", "-i", "lo", "-n", "-w", self.file, "-s", str(SNAP), "-B", "16384",
                "--time-stamp-precision=nano",
                f"(tcp port {self.proxy} or tcp port {self.upstream}) and tcp[tcpflags] & tcp-push != 0"]
        with open(self.log, "wb") as log:
            self.process = machine.start(argv, {machine.LOAD_CORE}, log)
        machine.wait_for(lambda: "listening on" in self._said() or self.process.poll() is not None,
                         "tcpdump")
        if self.process.poll() is not None:
            raise Failed(f"tcpdump ended: {self._said()}")
        return self

    def __exit__(self, *_failure):
        machine.stop(self.process)

    def _said(self):
        with open(self.log, errors="replace") as log:
            return log.read()

    def within_us(self):
        """What each request and its answer took within the proxy together, smallest
        first."""
        dropped = re.search(r"(\d+) packets dropped by kernel", self._said())
        if not dropped or int(dropped.group(1)):
            raise Failed(f"tcpdump lost packets: {self._said().strip()}")
        with open(self.file, "rb") as source:
            data = source.read()
        os.remove(self.file)
        return sorted(within(packets(data), self.proxy, self.upstream))


def packets(data):
    """Time in ns, ports and payload of each TCP packet over IPv4 of a capture."""
    at = 24
    while at + 16 <= len(data):
        seconds, nanos, held, _ = struct.unpack("<IIII", data[at:at + 16])
        packet = data[at + 16:at + 16 + held]
        at += 16 + held
        tcp = 14 + (packet[14] & 15) * 4
        source, target = struct.unpack(">HH", packet[tcp:tcp + 4])
        yield seconds * 10**9 + nanos, source, target, packet[tcp + (packet[tcp + 12] >> 4) * 4:]


def within(found, proxy, upstream):
    """Of HTTP/1.1 requests with a tag each: one at a time in a connection."""
    times, current = {}, {}
    for time, source, target, payload in found:
        # Which connection, and which of the four ways.
        way = {proxy: "request in", upstream: "request out"}.get(target)
        way, peer = (way, source) if way else ("answer in" if source == upstream else "answer out", target)
        side = proxy if way in ("request in", "answer out") else upstream
        tag = TAG.search(payload) if way.startswith("request") else None
        if tag:
            current[side, peer] = tag.group(1)
        name = current.get((side, peer))
        if name:
            times.setdefault(name, {})[way] = time
    for way in times.values():
        if len(way) == 4:
            yield (way["request out"] - way["request in"] + way["answer out"] - way["answer in"]) / 1e3
