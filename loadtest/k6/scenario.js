// A load on a Seldon Core 2 mesh: REST and gRPC inference, at a constant rate
// each. Copy it and make it your own:
//
//   k6 run -e HOST=seldon-mesh.example:80 -e MODEL=iris -e RATE=100 scenario.js
//
// Variables: HOST (host:port), MODEL, RATE (requests per second of each protocol),
// SECONDS (30), REST=0 or GRPC=0 to leave one out, TLS=1, INPUTS (JSON of the
// request's `inputs`), PROTO_DIR (the folder of open_inference_grpc.proto).

import http from "k6/http";
import grpc from "k6/net/grpc";
import { check } from "k6";

const host = __ENV.HOST || "127.0.0.1:9000";
const model = __ENV.MODEL || "iris";
const rate = Number(__ENV.RATE || 100);
const duration = `${__ENV.SECONDS || 30}s`;
const tls = __ENV.TLS === "1";
const inputs = __ENV.INPUTS
  ? JSON.parse(__ENV.INPUTS)
  : [{ name: "predict", shape: [1, 4], datatype: "FP32", data: [5.1, 3.5, 1.4, 0.2] }];

const client = new grpc.Client();
client.load([__ENV.PROTO_DIR || "../../config"], "open_inference_grpc.proto");

function at(exec) {
  return {
    executor: "constant-arrival-rate",
    exec: exec,
    rate: rate,
    duration: duration,
    preAllocatedVUs: Math.max(4, Math.ceil(rate / 10)),
    maxVUs: Math.max(16, rate),
  };
}

const scenarios = {};
if (__ENV.REST !== "0") scenarios.rest = at("rest");
if (__ENV.GRPC !== "0") scenarios.grpc = at("unary");

export const options = {
  scenarios: scenarios,
  thresholds: { checks: ["rate==1"] },
  summaryTrendStats: ["med", "p(90)", "p(95)", "p(99)", "max"],
};

const headers = { "Content-Type": "application/json", "Seldon-Model": model };
const restBody = JSON.stringify({ inputs: inputs });

export function rest() {
  const url = `${tls ? "https" : "http"}://${host}/v2/models/${model}/infer`;
  const answer = http.post(url, restBody, { headers: headers });
  check(answer, {
    "REST: status 200": (a) => a.status === 200,
    "REST: x-seldon-route": (a) => a.headers["X-Seldon-Route"] !== undefined,
  });
}

const message = {
  model_name: model,
  inputs: inputs.map((input) => ({
    name: input.name,
    shape: input.shape,
    datatype: input.datatype,
    contents: { fp32_contents: input.data },
  })),
};

let connected = false;

export function unary() {
  if (!connected) {
    client.connect(host, { plaintext: !tls });
    connected = true;
  }
  const answer = client.invoke("inference.GRPCInferenceService/ModelInfer", message, {
    metadata: { "seldon-model": model },
  });
  check(answer, { "gRPC: status OK": (a) => a && a.status === grpc.StatusOK });
}
