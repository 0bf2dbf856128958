#!/usr/bin/env bash
# Version rolls under an open loop: 500 requests per second, half HTTP and half
# gRPC, to a model, to three experiments that it is an arm of, and to one whose
# mirror it is. Each roll removes the clusters of the old version before the
# table that stops naming them (the scheduler's real order). No request fails.
#
#   tests/rolls_open.sh [MODELS] [ROLLS] [RATE]      default: 100 20 500
#
# Needs bash, curl, cargo and target/release/radiant. Variables: RADIANT (the
# binary), PORT (first of six free ports, 21900), GRACE (--removed-cluster-grace
# in seconds; 0 is what Envoy does), PAUSE (between rolls, in seconds, 1), PROXY
# (a command that starts another proxy, given the bootstrap's path), PROFILE (of
# the load driver: release).
set -euo pipefail
cd "$(dirname "$0")/.."
models=${1:-100} rolls=${2:-20} rate=${3:-500}
radiant=${RADIANT:-target/release/radiant}
port=${PORT:-21900}
work=target/rolls-open
. tests/lib.sh

profile=${PROFILE:-release}
${CARGO:-cargo} build --quiet --example open_loop --profile "$profile"
driver=target/${profile/dev/debug}/examples/open_loop

"$radiant" demo --no-proxy --port "$port" --models "$models" >"$work/demo.log" 2>&1 &
pids+=($!)
bootstrap >"$work/bootstrap.yaml"
if [ -n "${PROXY:-}" ]; then
  $PROXY "$work/bootstrap.yaml" >"$work/proxy.log" 2>&1 &
else
  "$radiant" run -c "$work/bootstrap.yaml" ${GRACE:+--removed-cluster-grace "$GRACE"} >"$work/proxy.log" 2>&1 &
fi
proxy=$!
pids+=("$proxy")
for _ in $(seq 3000); do
  curl -fsS -o /dev/null "http://127.0.0.1:$port/" 2>/dev/null && break
  [ "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/" || true)" = 404 ] && break
  kill -0 "$proxy" 2>/dev/null || fail "the proxy ended"
  sleep 0.02
done

control=http://127.0.0.1:$((port + 4))
post() { curl -fsS "$control/$1" -d "$2" >"$work/control.json" || fail "$1"; }
for n in 1 2; do # the third is the demo's own
  post "experiments/roll-$n" '{"candidates": {"baseline-predictor": 50, "enhanced-predictor": 50}}'
done
post experiments/roll-mirror \
  '{"candidates": {"enhanced-predictor": 100}, "mirror": {"baseline-predictor": 100}}'
post experiments/roll-mirrored \
  '{"candidates": {"baseline-predictor": 100}, "mirror": {"enhanced-predictor": 100}}'
stat() {
  curl -fsS "http://127.0.0.1:$((port + 5))/stats?filter=$1" | awk -F': ' '{ sum += $2 } END { print sum + 0 }'
}
grep -q '"applied": true' "$work/control.json" || fail "not applied: $(cat "$work/control.json")"

rm -f "$work/stop"
mkfifo "$work/stop" # the load ends when its writer does
"$driver" "$port" "$rate" baseline-predictor roll-1.experiment roll-2.experiment \
  financial-ab-test-experiment.experiment roll-mirror.experiment roll-mirrored.experiment \
  <"$work/stop" >"$work/load.log" 2>&1 &
load=$!
pids+=("$load")
exec 5>"$work/stop"
sleep 1
for n in $(seq "$rolls"); do
  curl -fsS -X POST "$control/models/baseline-predictor" >"$work/roll.json" || fail "roll $n"
  grep -q '"applied": true' "$work/roll.json" || fail "roll $n: $(cat "$work/roll.json")"
  sleep "${PAUSE:-1}"
done
exec 5>&-
ended=0
wait "$load" || ended=$?
mirrors=$(stat '^http.seldon_mirrors.downstream_rq_total$')
version=$(curl -fsS "$control/state" | grep -A1 '"baseline-predictor"' | grep -o '"version": [0-9]*' | head -1)
tail -n 2 "$work/load.log"
echo "$models models, $rolls rolls, $rate/s: $(grep -c baseline-predictor_ "$work/load.log") pairs of version and protocol answered (last $version), mirrored requests $mirrors"
[ "$mirrors" -gt 0 ] || fail "nothing was mirrored"
grep -q "baseline-predictor_$((rolls + 1)):" "$work/load.log" || fail "the last version never answered"
[ "$ended" = 0 ] || fail "$(grep '^failed' "$work/load.log" | head -5)"
echo "rolls_open: passed"
