# What the test scripts share; to be sourced after `work` (a folder for logs) and
# `port` (the first of six free ports) are set. Processes whose ids are put into
# `pids` are ended when the script ends.
mkdir -p "$work"
pids=()

finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
}
trap finish EXIT

fail() {
  echo "FAILED: $*" >&2
  tail -n 20 "$work"/*.log >&2
  exit 1
}

# await WHAT SECONDS COMMAND...: until the command succeeds
await() {
  local what=$1 deadline=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || fail "$what: not within the time"
    sleep 0.02
  done
}

# await_ready PID [SECONDS]: until the proxy of this process is ready
await_ready() {
  ready_or_gone() { curl -fsS "http://127.0.0.1:$((port + 3))/ready" || ! kill -0 "$1"; }
  await "ready" "${2:-60}" ready_or_gone "$1"
  kill -0 "$1" 2>/dev/null || fail "the proxy ended"
}

# bootstrap: the shipped bootstrap with the ports of this test
bootstrap() {
  sed -e "s/port_value: 9002/port_value: $((port + 2))/" \
    -e 's/address: seldon-scheduler/address: 127.0.0.1/' \
    -e "s/port_value: 9901/port_value: $((port + 5))/" \
    -e "s/port_value: 9003/port_value: $((port + 3))/" config/envoy.yaml
}
