#!/usr/bin/env bash
# Radiant in file mode with `rewrite` splits REST and gRPC calls between two real
# MLServers, 70/30.
#
#   tests/mlserver.sh [REQUESTS]         default: 1000 by REST and 1000 by gRPC
#
# Needs bash, python3 with venv and a package index (mlserver, mlserver-sklearn
# and what they need, about 300 MB, into target/mlserver), and
# target/release/radiant. Variables: RADIANT (the binary), PORT (first of ten free
# ports, 21900), MLSERVER_VENV (a virtual environment that has them already).
set -euo pipefail
cd "$(dirname "$0")/.."
requests=${1:-1000}
radiant=${RADIANT:-target/release/radiant}
port=${PORT:-21900}
work=$PWD/target/mlserver
venv=${MLSERVER_VENV:-$work/venv}
. tests/lib.sh

if [ ! -x "$venv/bin/mlserver" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet mlserver==1.7.1 mlserver-sklearn==1.7.1 || fail "cannot install mlserver"
fi
"$venv/bin/python" tests/mlserver/train.py "$work/models" "$port" || fail "training"
for name in baseline-predictor enhanced-predictor; do
  (cd "$work/models/$name" && exec "$venv/bin/mlserver" start . >"$work/$name.log" 2>&1) &
  pids+=($!)
done
cat >"$work/radiant.yaml" <<YAML
kind: Radiant
metadata: {name: settings}
spec:
  listen: {http: "127.0.0.1:$port", utility: "127.0.0.1:$((port + 1))", admin: "127.0.0.1:$((port + 2))"}
  rewrite: true
---
apiVersion: mlops.seldon.io/v1alpha1
kind: Model
metadata: {name: baseline-predictor}
spec: {endpoints: [{http: "127.0.0.1:$((port + 4))", grpc: "127.0.0.1:$((port + 5))"}]}
---
apiVersion: mlops.seldon.io/v1alpha1
kind: Model
metadata: {name: enhanced-predictor}
spec: {endpoints: [{http: "127.0.0.1:$((port + 7))", grpc: "127.0.0.1:$((port + 8))"}]}
---
apiVersion: mlops.seldon.io/v1alpha1
kind: Experiment
metadata: {name: financial-ab-test-experiment}
spec:
  default: baseline-predictor
  candidates: [{name: baseline-predictor, weight: 70}, {name: enhanced-predictor, weight: 30}]
YAML
"$radiant" run -c "$work/radiant.yaml" >"$work/radiant.log" 2>&1 &
pids+=($!)
"$venv/bin/python" tests/mlserver/drive.py "$port" "$requests" || fail "traffic"
echo "mlserver: passed"
