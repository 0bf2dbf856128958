#!/usr/bin/env bash
# The README's promise: the demo runs, its curl answers, the split is 70/30, a
# sticky client stays, and a weight changes live without a failed request.
#
#   tests/demo.sh
#
# Needs bash and curl, and target/release/radiant (cargo build --release).
# Variables: RADIANT (the binary), PORT (first of six free ports, 21600).
set -euo pipefail
cd "$(dirname "$0")/.."
radiant=${RADIANT:-target/release/radiant}
port=${PORT:-21600}
work=target/demo
. tests/lib.sh
"$radiant" demo --port "$port" >"$work/demo.log" 2>&1 &
pid=$!
pids+=("$pid")
await_ready "$pid"

body='{"inputs":[{"name":"input-0","shape":[1,10],"datatype":"FP32","data":[[1,2,3,4,5,6,7,8,9,10]]}]}'
url=http://127.0.0.1:$port/v2/models/baseline-predictor/infer
config() { # COUNT [HEADER...]: a curl config of COUNT requests on one connection
  local n=$1 i; shift
  for ((i = 0; i < n; i++)); do
    [ "$i" -eq 0 ] || echo next
    printf 'url = "%s"\nrequest = POST\ndata = "%s"\nheader = "content-type: application/json"\n' "$url" "${body//\"/\\\"}"
    for header in "seldon-model: financial-ab-test-experiment.experiment" "$@"; do
      printf 'header = "%s"\n' "$header"
    done
    printf 'output = /dev/null\ndump-header = -\n'
  done
}
send() { # COUNT [HEADER...]: prints "code route" per request
  local n=$1; shift
  config "$n" "$@" | curl -sS -K - |
    tr -d '\r' | awk '/^HTTP/{code=$2} tolower($1)=="x-seldon-route:"{routes=routes $2} /^$/{print code, routes; routes=""}'
}

echo "one request: $(send 1)"
send 10000 >"$work/split"
[ "$(grep -c '^200 :[a-z]*-predictor_1:$' "$work/split")" -eq 10000 ] || fail "not every answer is a 200 with one x-seldon-route: $(sort "$work/split" | uniq -c)"
baseline=$(grep -c 'baseline' "$work/split")
echo "10,000 requests: $baseline baseline, $((10000 - baseline)) enhanced"
# 4 sigma of a binomial (10,000, 0.7) is 183.3
[ "$baseline" -ge 6817 ] && [ "$baseline" -le 7183 ] || fail "the split is off"

send 500 'x-seldon-route: :enhanced-predictor_1:' >"$work/sticky"
[ "$(grep -c '^200 :enhanced-predictor_1:$' "$work/sticky")" -eq 500 ] || fail "sticky requests left their arm"
echo "sticky: 500 of 500"

send 6000 >"$work/change" &
sender=$!
curl -fsS "http://127.0.0.1:$((port + 4))/experiments/financial-ab-test-experiment" \
  -d '{"candidates": {"baseline-predictor": 10, "enhanced-predictor": 90}}' >/dev/null || fail "the weight was not changed"
wait "$sender"
[ "$(grep -c '^200 ' "$work/change")" -eq 6000 ] || fail "requests failed while the weight changed"
send 2000 >"$work/after"
baseline=$(grep -c 'baseline' "$work/after")
echo "after the change to 10/90: $baseline of 2,000 baseline, no failed request"
[ "$baseline" -ge 146 ] && [ "$baseline" -le 254 ] || fail "the new weight is not in force"

kill -TERM "$pid"
code=0; wait "$pid" || code=$?
[ "$code" -eq 0 ] || fail "exit code $code after SIGTERM"
echo "demo: passed"
