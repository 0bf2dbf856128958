#!/usr/bin/env bash
# Lets Prometheus's own parser read the exposition.
#
#   tests/promtool.sh                      what the unit tests expose
#   tests/promtool.sh URL                  a running proxy, for example
#                                          http://127.0.0.1:9003/stats/prometheus
#
# Needs promtool (Debian package "prometheus"). Exit code 0 if the text parses.
# promtool's style remarks (no HELP, counters without _total) hold for Envoy's
# names as well; they are shown by their number only.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v promtool >/dev/null || { echo "promtool not found: install the package 'prometheus'" >&2; exit 2; }

text=$(mktemp)
trap 'rm -f "$text" "$text.out"' EXIT
if [ $# -ge 1 ]; then
  curl -fsS -o "$text" "$1"
else
  RADIANT_EXPOSITION="$text" cargo test --quiet --lib families_are_whole >/dev/null
fi
[ -s "$text" ] || { echo "nothing was exposed" >&2; exit 1; }

code=0
promtool check metrics <"$text" >"$text.out" 2>&1 || code=$?
# 0: nothing to say, 3: style remarks; anything else: it does not parse.
if [ "$code" -ne 0 ] && [ "$code" -ne 3 ]; then
  cat "$text.out" >&2
  exit 1
fi
echo "$(grep -c '^# TYPE' "$text") families parse ($(wc -l <"$text.out") style remarks)"
