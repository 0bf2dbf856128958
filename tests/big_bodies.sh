#!/usr/bin/env bash
# Big bodies through a memory limit: an upload and a download, and a reader that
# stalls, through a proxy that may use 64 MiB of address space for its heap.
#
#   tests/big_bodies.sh [MIB]      size of each body, default 2048
#
# Needs bash, curl and target/release/radiant. The limit is a cgroup where one
# can be made (root, cgroup v2), else `ulimit -d` (heap and anonymous memory).
# Variables: RADIANT (the binary), PORT (first of six free ports, 21700).
set -euo pipefail
cd "$(dirname "$0")/.."
mib=${1:-2048}
radiant=${RADIANT:-target/release/radiant}
port=${PORT:-21700}
work=target/big-bodies
. tests/lib.sh
group=
trap 'finish; [ -z "$group" ] || rmdir "$group" 2>/dev/null || true' EXIT

"$radiant" demo --no-proxy --port "$port" >"$work/demo.log" 2>&1 &
pids+=($!)
bootstrap >"$work/bootstrap.yaml"

limit() { # starts the proxy under 64 MiB; sets $proxy and $how
  local root file bytes=$((64 * 1024 * 1024)) run="exec $radiant run -c $work/bootstrap.yaml --concurrency 2"
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    root=/sys/fs/cgroup file=memory.max
  else
    root=/sys/fs/cgroup/memory file=memory.limit_in_bytes
  fi
  if mkdir "$root/radiant-$$" 2>/dev/null && [ -f "$root/radiant-$$/$file" ] && echo "$bytes" >"$root/radiant-$$/$file"; then
    group=$root/radiant-$$
    how="cgroup $file 64 MiB"
    bash -c "echo \$\$ >$group/cgroup.procs; $run" >"$work/proxy.log" 2>&1 &
  else
    how="ulimit -d 64 MiB"
    bash -c "ulimit -d 65536; $run" >"$work/proxy.log" 2>&1 &
  fi
  proxy=$!
  pids+=("$proxy")
}
limit
await_ready "$proxy"

bytes=$((mib * 1024 * 1024))
base=http://127.0.0.1:$port/v2/models/baseline-predictor
peak() { awk '/VmHWM/{print int($2/1024)}' "/proc/$proxy/status"; }

sent=$(head -c "$bytes" /dev/zero | curl -sS -w ' %{http_code}' -T - -X POST "$base/upload")
[ "$sent" = "{\"bytes\":$bytes} 200" ] || fail "upload: $sent"
echo "upload of $mib MiB: $sent, peak $(peak) MiB"

got=$(curl -sS -o /dev/null -w '%{http_code} %{size_download}' "$base/download?bytes=$bytes")
[ "$got" = "200 $bytes" ] || fail "download: $got"
echo "download of $mib MiB: $got, peak $(peak) MiB"

# A reader that takes nothing for two seconds and then everything: the proxy must
# hold the upstream back meanwhile.
for http in --http1.1 --http2-prior-knowledge; do
  got=$(curl -sS $http "$base/download?bytes=$bytes" | { sleep 2; wc -c; })
  [ "$got" = "$bytes" ] || fail "stalled reader $http: $got bytes"
  echo "stalled reader ($http) of $mib MiB: $got bytes, peak $(peak) MiB"
done
kill -0 "$proxy" || fail "the proxy ended"
[ "$(peak)" -le 64 ] || fail "peak $(peak) MiB"
echo "big bodies: passed ($how)"
