#!/usr/bin/env bash
# Version rolls under load: a model that is an arm of three experiments rolls,
# the clusters of its old version go before the table that stops naming them (the
# scheduler's real order), and no request fails.
#
#   tests/rolls.sh [MODELS] [ROLLS]      default: 5000 20
#
# Needs bash, curl, wrk (Debian package "wrk") and target/release/radiant.
# Variables: RADIANT (the binary), PORT (first of six free ports, 21800),
# GRACE (--removed-cluster-grace in seconds; 0 is what Envoy does).
set -euo pipefail
cd "$(dirname "$0")/.."
models=${1:-5000} rolls=${2:-20}
radiant=${RADIANT:-target/release/radiant}
port=${PORT:-21800}
work=target/rolls
. tests/lib.sh

"$radiant" demo --no-proxy --port "$port" --models "$models" >"$work/demo.log" 2>&1 &
pids+=($!)
bootstrap >"$work/bootstrap.yaml"
"$radiant" run -c "$work/bootstrap.yaml" ${GRACE:+--removed-cluster-grace "$GRACE"} >"$work/proxy.log" 2>&1 &
proxy=$!
pids+=("$proxy")
await_ready "$proxy"

control=http://127.0.0.1:$((port + 4))
for n in 1 2; do # the third is the demo's own
  curl -fsS "$control/experiments/roll-$n" \
    -d '{"candidates": {"baseline-predictor": 50, "enhanced-predictor": 50}}' >/dev/null
done

cat >"$work/load.lua" <<'LUA'
local names = {"roll-1.experiment", "roll-2.experiment", "financial-ab-test-experiment.experiment", "baseline-predictor"}
local body = '{"inputs":[{"name":"input-0","shape":[1,3],"datatype":"FP32","data":[[1,2,3]]}]}'
request = function()
  return wrk.format("POST", "/v2/models/x/infer",
    {["content-type"] = "application/json", ["seldon-model"] = names[math.random(#names)]}, body)
end
done = function(summary)
  local e = summary.errors
  print(string.format("requests %d failed %d", summary.requests,
    e.status + e.connect + e.read + e.write + e.timeout))
end
LUA
wrk -t1 -c4 -d3600 -s "$work/load.lua" "http://127.0.0.1:$port" >"$work/wrk.log" 2>&1 &
load=$!
pids+=("$load")
for n in $(seq "$rolls"); do
  curl -fsS -X POST "$control/models/baseline-predictor" >"$work/roll.json" || fail "roll $n"
done
kill -INT "$load"
wait "$load" || true
result=$(grep '^requests' "$work/wrk.log") || fail "no result: $(cat "$work/wrk.log")"
echo "$models models, $rolls rolls, 4 clients in a closed loop: $result"
case $result in
  *' failed 0') echo "rolls: passed" ;;
  *) fail "requests failed" ;;
esac
