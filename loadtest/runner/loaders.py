"""The load generators. Each returns what it completed and what failed; a run with
failures is invalid and says so."""

import json
import os
import random
import re

from . import machine

PATH = "/v2/models/iris/infer"
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"


def wrk(tools, directory, port, seconds, connections, workers=1, method="POST", body=1024,
        reply=None, models=0):
    """Closed loop over HTTP/1.1. Requests are made before the start: a random one
    of `models`, or always `iris`."""
    script = os.path.join(directory, f"wrk-{os.getpid()}.lua")
    headers = '["content-type"] = "application/json"'
    if reply:
        headers += f', ["x-reply"] = "{reply}"'
    with open(script, "w") as out:
        out.write(f"""
local body = {f'string.rep("x", {body})' if body else 'nil'}
local requests, names = {{}}, {{}}
local function request_for(name)
  return wrk.format("{method}", "/v2/models/" .. name .. "/infer",
    {{{headers}, ["seldon-model"] = name}}, body)
end
function init(args)
  math.randomseed({random.randrange(1 << 30)})
  local models = {models}
  if models == 0 then requests[1] = request_for("iris") end
  for i = 1, math.min(models, 20000) do
    requests[i] = request_for(string.format("model-%06d", math.random(0, models - 1)))
  end
end
function request() return requests[math.random(#requests)] end
""")
    text = machine.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script,
                        f"http://127.0.0.1:{port}"], machine.load_cores(workers))
    done = int(re.search(r"(\d+) requests in", text).group(1))
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: (.*)", text)
    errors = [m.group(0) for m in (failed, broken) if m]
    return {"completed": done, "errors": errors}


def h2load(_tools, directory, port, seconds, model, body, reply_bytes, connections=8, streams=8,
           workers=1):
    """Closed loop of gRPC calls over h2c. An answer without its message has no
    data, so the bytes of data tell failed calls."""
    message = os.path.join(directory, f"h2load-{os.getpid()}")
    with open(message, "wb") as out:
        out.write(b"\0" + body.to_bytes(4, "big") + bytes(body))
    text = machine.run(
        ["h2load", "-D", str(seconds), "-c", str(connections), "-m", str(streams), "-t", "1",
         "-H", "content-type: application/grpc", "-H", "te: trailers", "-H",
         f"seldon-model: {model}", "-d", message, f"http://127.0.0.1:{port}{GRPC_PATH}"],
        machine.load_cores(workers))
    counts = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    done, succeeded, failed, errored, timeout = map(int, counts.groups())
    data = int(re.search(r"\((\d+)\) data", text).group(1))
    errors = []
    if failed or errored or timeout or done != succeeded:
        errors.append(counts.group(0))
    # Calls that were under way at the end may have sent some of their data.
    if not 0 <= data - succeeded * reply_bytes <= connections * streams * reply_bytes:
        errors.append(f"{data} bytes of data in {succeeded} answers of {reply_bytes}")
    return {"completed": succeeded, "errors": errors}


def oha(tools, port, seconds, rate, connections, workers=1, delay_ms=0, models=0, streams=0,
        tagged=False):
    """Open loop at a rate, latency counted from when a request was due; `streams`:
    over HTTP/2, so many of them in each connection; `tagged`: each request has a name
    (packets.TAG)."""
    argv = [tools.oha, "--no-tui", "--output-format", "json", "-w", "-z", f"{seconds}s",
            "-q", str(rate), "--latency-correction", "-c", str(connections),
            "-m", "POST", "-d", "x" * 1024, "-H", "content-type: application/json"]
    if streams:
        argv += ["--http2", "-p", str(streams)]
    if delay_ms:
        argv += ["-H", f"x-delay-ms: {delay_ms}"]
    if tagged:
        argv += ["-H", "seldon-model: iris", "--rand-regex-url",
                 f"http://127.0.0.1:{port}{PATH}[?]t=[0-9]{{15}}"]
    elif models:
        digits = len(str(models)) - 1
        name = "model-" + "0" * (6 - digits) + "[0-9]" * digits
        # A dot is a dot there.
        argv += ["--rand-regex-url", f"http://127.0.0.1:{port}/v2/models/{name}/infer"]
    else:
        argv += ["-H", "seldon-model: iris", f"http://127.0.0.1:{port}{PATH}"]
    # With a core of its own nothing but the control plane stands in its way.
    text = machine.run(argv, machine.load_cores(workers), first=workers == 1)
    return oha_result(text, seconds, rate, connections * max(streams, 1))


def oha_result(text, seconds, rate, in_flight):
    """`in_flight`: most requests that may be under way when the time is over."""
    out = json.loads(text)
    answers = {int(code): n for code, n in out["statusCodeDistribution"].items()}
    good = sum(n for code, n in answers.items() if 200 <= code < 300)
    errors = [f"{n} answers with status {code}" for code, n in answers.items() if not 200 <= code < 300]
    for what, times in out["errorDistribution"].items():
        if what != "aborted due to deadline" or times > in_flight:
            errors.append(f"{times} times {what}")
    if good < 0.98 * rate * seconds:
        errors.append(f"{good} answers instead of {rate * seconds:.0f}: the rate was not sustained")
    percentiles = {name: value * 1e3 for name, value in out["latencyPercentiles"].items()
                   if value is not None}
    return {"completed": good, "errors": errors, "ms": percentiles}
