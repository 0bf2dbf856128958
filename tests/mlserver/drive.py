"""Sends REST and gRPC inference calls for the experiment: PORT REQUESTS."""

import http.client
import json
import math
import sys
import time

import grpc
from mlserver.grpc import dataplane_pb2, dataplane_pb2_grpc

port, count = int(sys.argv[1]), int(sys.argv[2])
EXPERIMENT = "financial-ab-test-experiment.experiment"
VALUES = [0.5, -1.0, 2.0, 0.25]


def rest(connection, path):
    body = json.dumps({"inputs": [
        {"name": "predict", "shape": [1, 4], "datatype": "FP64", "data": VALUES}]})
    connection.request("POST", path, body, {
        "content-type": "application/json", "seldon-model": EXPERIMENT})
    response = connection.getresponse()
    return response.status, response.getheader("x-seldon-route"), response.read()


def ready():
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        for name in ("baseline-predictor", "enhanced-predictor"):
            connection.request("GET", f"/v2/models/{name}/ready",
                               headers={"seldon-model": name, "x-seldon-route": f":{name}:"}
                               if name == "baseline-predictor" else {"seldon-model": name})
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                return False
        return True
    except OSError:
        return False


def check(kind, baseline, total):
    sigma = math.sqrt(total * 0.7 * 0.3)
    print(f"{kind}: {baseline} of {total} to baseline-predictor, all answered")
    assert abs(baseline - 0.7 * total) <= 4 * sigma, "the split is off"


end = time.monotonic() + 120
while not ready():
    assert time.monotonic() < end, "the model servers do not come up"
    time.sleep(0.25)

connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
baseline = 0
for n in range(count):
    # By the experiment's own name, which plain MLServer does not know: rewritten.
    status, route, answer = rest(connection, f"/v2/models/{EXPERIMENT}/infer")
    assert status == 200, (status, answer)
    served = json.loads(answer)["model_name"]
    assert route == f":{served}:", (route, served)
    baseline += served == "baseline-predictor"
check("REST", baseline, count)

channel = grpc.insecure_channel(f"127.0.0.1:{port}")
stub = dataplane_pb2_grpc.GRPCInferenceServiceStub(channel)
request = dataplane_pb2.ModelInferRequest(model_name=EXPERIMENT)
tensor = request.inputs.add(name="predict", datatype="FP64", shape=[1, 4])
tensor.contents.fp64_contents.extend(VALUES)
baseline = 0
for n in range(count):
    answer = stub.ModelInfer(request, metadata=(("seldon-model", EXPERIMENT),), timeout=10)
    baseline += answer.model_name == "baseline-predictor"
check("gRPC", baseline, count)
