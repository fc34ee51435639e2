#!/usr/bin/env bash
# Clicks into a running grid; their times of day are made by make_times.py, which says so.
set -euo pipefail
here="$(dirname "$0")"
work="$(mktemp -d)"
trap 'rm -r "$work"' EXIT
python "$here/make_times.py" "${PROFILEGRID_DATA:?names the folder of the data sets}/eshop_clothing_2008.csv.gz" "$work/clicks.csv"
profilegrid catalog apply "$here/catalog.yaml"
profilegrid ingest "$work/clicks.csv" --user '"session ID"' --event "'click'" \
  --map model='"page 2 (clothing model)"' --map category='"page 1 (main category)"' --map colour=colour --map price=price --map page=page "$@"
profilegrid ingest "$work/clicks.csv" --attributes --user '"session ID"' --map country=country "$@"
