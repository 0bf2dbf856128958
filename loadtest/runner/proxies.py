"""The four proxies in the scheduler's shape: `seldon-model` chooses a model, the
answer carries `x-seldon-route`. Radiant and Envoy get it from the control plane,
HAProxy from a map file, NGINX from a `map`; each as its operators would tune it,
without access log of successes."""

import http.client
import json
import os
import subprocess

from . import machine
from .machine import Failed

#: Synthetic models are called model-000000 and so on.
NAMES = ("Radiant", "Envoy", "HAProxy", "NGINX")
#: What no proxy can be below: a relay that looks at nothing.
RELAY = "Relay"
#: Another build of Radiant, for pairs.
BASE = "Base"
#: Which proxies have a control plane, and so can be changed while they run.
CONTROLLED = ("Radiant", "Envoy", BASE)

DYNAMIC = """
node: {{id: test-id, cluster: test-cluster}}
admin:
  address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{{envoy_grpc: {{cluster_name: xds_cluster}}}}]
  cds_config: {{resource_api_version: V3, ads: {{}}}}
  lds_config: {{resource_api_version: V3, ads: {{}}}}
static_resources:
  clusters:
  - name: xds_cluster
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: xds_cluster
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {xds}}}}}}}
"""

HAPROXY = """
global
  nbthread {workers}
  maxconn 4000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend rest
  bind 127.0.0.1:{http} backlog 4096
  http-request set-header seldon-model %[path,field(4,/)] if !{{ hdr(seldon-model) -m found }}
  http-request set-var(txn.label) req.hdr(seldon-model),map({map})
  http-request return status 404 if !{{ var(txn.label) -m found }}
  http-response add-header x-seldon-route :%[var(txn.label)]:
  default_backend rest_pods
frontend grpc
  bind 127.0.0.1:{grpc} proto h2 backlog 4096
  http-request set-var(txn.label) req.hdr(seldon-model),map({map})
  http-request return status 404 if !{{ var(txn.label) -m found }}
  http-response add-header x-seldon-route :%[var(txn.label)]:
  use_backend rest_pods if {{ path_beg /v2/ }}
  use_backend stream_pods if {{ req.hdr(seldon-model) stream }}
  default_backend grpc_pods
backend rest_pods
  server pod 127.0.0.1:{up_http}
backend grpc_pods
  server pod 127.0.0.1:{up_grpc} proto h2
backend stream_pods
  server pod 127.0.0.1:{up_stream} proto h2
"""

NGINX = """
worker_processes {workers};
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/nginx.err;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_max_body_size 64m;
  client_body_buffer_size 128k;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  proxy_request_buffering off;
  proxy_buffer_size 16k;
  proxy_buffers 16 64k;
  proxy_busy_buffers_size 128k;
  proxy_max_temp_file_size 0;
  grpc_buffer_size 64k;
  map $http_seldon_model $label {{ include {dir}/models.map; }}
  split_clients $request_id $ab {{ 50% arm-a_1; * arm-b_1; }}
  map $label $route {{ ab $ab; default $label; }}
  map $http_seldon_model $grpc_pool {{ stream stream_pods; default grpc_pods; }}
  upstream rest_pods {{ server 127.0.0.1:{up_http}; keepalive 512; keepalive_requests 1000000000; }}
  upstream grpc_pods {{ server 127.0.0.1:{up_grpc}; keepalive 512; keepalive_requests 1000000000; }}
  upstream stream_pods {{ server 127.0.0.1:{up_stream}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{http} backlog=4096;
    add_header x-seldon-route :$route:;
    location / {{
      proxy_pass http://rest_pods;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
    }}
  }}
  server {{
    listen 127.0.0.1:{grpc} http2 backlog=4096;
    add_header x-seldon-route :$route:;
    location / {{ grpc_pass grpc://$grpc_pool; }}
    location /v2/ {{
      proxy_pass http://rest_pods;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
    }}
  }}
}}
"""


class Tools:
    """Where the programs are."""

    def __init__(self, root):
        own = os.path.join(root, "target/loadtest")
        built = os.path.join(own, "build/release")
        self.root = root
        self.radiant = os.environ.get("RADIANT", os.path.join(root, "target/release/radiant"))
        self.base = None
        self.envoy = os.environ.get("RADIANT_ENVOY", os.path.join(own, "venv/bin/envoy"))
        self.oha = os.path.join(own, "bin/oha")
        self.k6 = os.path.join(own, "venv/bin/k6")
        self.upstream = os.path.join(built, "upstream")
        self.control = os.path.join(built, "control")
        self.relay = os.path.join(built, "relay")
        self.pour = os.path.join(built, "pour")

    def check(self, names):
        for name in names:
            path = getattr(self, name)
            if not os.access(path, os.X_OK):
                raise Failed(f"{path} is missing: run loadtest/install first")


class Upstream:
    def __init__(self, tools, workers, directory):
        self.http, self.grpc, self.stream = machine.free_ports(3)
        self.log = open(os.path.join(directory, "upstream.log"), "ab")
        self.process = machine.start(
            [tools.upstream, str(self.http), str(self.grpc), str(self.stream)],
            machine.load_cores(workers), self.log, stdout=subprocess.PIPE)
        if self.process.stdout.readline().strip() != b"ready":
            raise Failed("the upstream did not start")

    def stop(self):
        machine.stop(self.process)


class Control:
    """The control plane of one proxy."""

    def __init__(self, tools, upstream, ports, models, workers, log):
        arguments = [ports["xds"], ports["http"], ports["mirror"],
                     upstream.http, upstream.grpc, upstream.stream, models]
        self.process = machine.start(
            [tools.control, *map(str, arguments)], machine.load_cores(workers), log,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.process.stdout.readline().strip() != b"ready":
            raise Failed("the control plane did not start")

    def send(self, command):
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed("the control plane ended")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"control plane: {answer['error']}")
        return answer

    def ask(self, command):
        self.send(command)
        return self.answer()

    def step_back(self):
        """Leaves its core to the load generator and the upstream whenever they want
        it: to write ten thousand models takes milliseconds, which would be counted
        as the proxy's latency."""
        for thread in os.listdir(f"/proc/{self.process.pid}/task"):
            try:
                os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
            except ProcessLookupError:
                pass  # it has ended

    def ask_first(self, command):
        """The same beside a load that takes the core: the thread that asks for the
        change goes first, or its own waiting would be counted."""
        machine.go_first(self.process.pid)
        try:
            return self.ask(command)
        finally:
            self.step_back()

    def stop(self):
        machine.stop(self.process)


class Proxy:
    """A running proxy: `http` and `grpc` are its ports, `pid` its process."""

    def __init__(self, name, tools, upstream, directory, workers=1, models=0):
        self.name, self.workers, self.models, self.upstream = name, workers, models, upstream
        self.directory = os.path.join(directory, f"{name}-{workers}-{models}")
        os.makedirs(self.directory, exist_ok=True)
        names = ("http", "grpc", "mirror", "xds", "admin", "utility")
        self.ports = dict(zip(names, machine.free_ports(len(names))))
        self.log = open(os.path.join(self.directory, "log"), "ab")
        self.control = None
        if name in CONTROLLED:
            self.ports["grpc"] = self.ports["http"]
            self.control = Control(tools, upstream, self.ports, models, workers, self.log)
        self.http, self.grpc = self.ports["http"], self.ports["grpc"]
        argv = getattr(self, f"_{name.lower()}")(tools)
        self.process = machine.start(argv, machine.proxy_cores(workers), self.log)
        self.pid = self.process.pid
        try:
            machine.wait_for(self._serves, f"{name} with {models} models (see {self.directory}/log)",
                             limit=180)
            if self.control and not self.control.ask("wait")["settled"]:
                raise Failed(f"{name} did not acknowledge {models} models")
            if self.control:
                self.control.step_back()
        except Failed:
            self.stop()
            raise

    def _write(self, file, text):
        path = os.path.join(self.directory, file)
        with open(path, "w") as out:
            out.write(text)
        return path

    def _substitutes(self):
        up = self.upstream
        return dict(self.ports, workers=self.workers, dir=self.directory,
                    up_http=up.http, up_grpc=up.grpc, up_stream=up.stream)

    def _labels(self):
        yield from (("iris", "iris_1"), ("stream", "stream_1"))
        for n in range(self.models):
            yield f"model-{n:06}", f"model-{n:06}_1"

    def _radiant(self, tools, binary=None):
        text = DYNAMIC.format(**self.ports)
        path = self._write("radiant.yaml", text)
        return [binary or tools.radiant, "run", "-c", path, "--concurrency", str(self.workers)]

    def _base(self, tools):
        return self._radiant(tools, tools.base)

    def _envoy(self, tools):
        path = self._write("envoy.yaml", DYNAMIC.format(**self.ports))
        return [tools.envoy, "-c", path, "--concurrency", str(self.workers),
                "--disable-hot-restart", "-l", "error"]

    def _relay(self, tools):
        return [tools.relay, str(self.http), str(self.upstream.http)]

    def _haproxy(self, _tools):
        names = self._write("models.map", "".join(f"{m} {l}\n" for m, l in self._labels()))
        text = HAPROXY.format(map=names, **self._substitutes())
        return ["haproxy", "-f", self._write("haproxy.cfg", text), "-db"]

    def _nginx(self, _tools):
        lines = "".join(f"{m} {l};\n" for m, l in self._labels())
        self._write("models.map", lines + "ab.experiment ab;\n")
        return ["nginx", "-c", self._write("nginx.conf", NGINX.format(**self._substitutes()))]

    def _serves(self):
        if self.process.poll() is not None:
            raise Failed(f"{self.name} ended: see {self.directory}/log")
        return status(self.http, model="iris") == 200

    def cpu(self):
        return machine.cpu_seconds(self.pid)

    def resident(self):
        return machine.resident_mib(self.pid)

    def sockets(self):
        up = self.upstream
        return machine.sockets_to(self.pid, (up.http, up.grpc, up.stream))

    def stop(self):
        machine.stop(self.process)
        if self.control:
            self.control.stop()


def status(port, model):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", f"/v2/models/{model}/infer", headers={"seldon-model": model})
        response = connection.getresponse()
        response.read()
        return response.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
