#!/usr/bin/env bash
# Regenerates the checked-in protobuf code; with --check fails when it is not current.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=client
[ "${1:-}" = "--check" ] && out=$(mktemp -d) && mkdir -p "$out/profilegrid/v1"
"$python" -m grpc_tools.protoc -Iprotos --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" protos/profilegrid/v1/*.proto
if [ "${1:-}" = "--check" ]; then
  for file in "$out"/profilegrid/v1/*; do
    cmp "$file" "client/profilegrid/v1/$(basename "$file")" || { echo "generated code is not current: run protos/generate.sh"; exit 1; }
  done
  rm -r "$out"
fi
