#!/usr/bin/env bash
# Invoice lines into a running grid. Lines without a customer end in the reject file; three bad-debt lines are no event of the catalog.
set -euo pipefail
file="${PROFILEGRID_DATA:?names the folder of the data sets}/online_retail_2010_2011.csv.gz"
profilegrid catalog apply "$(dirname "$0")/catalog.yaml"
profilegrid ingest "$file" \
  --user CustomerID --time InvoiceDate --timezone Europe/London \
  --event "CASE WHEN \"InvoiceNo\" LIKE 'C%' THEN 'cancel' WHEN \"InvoiceNo\" LIKE 'A%' THEN 'adjustment' ELSE 'purchase' END" \
  --map item=StockCode --map invoice=InvoiceNo --map quantity=Quantity --map price=UnitPrice \
  --map amount='"Quantity" * "UnitPrice"' "$@"
profilegrid ingest "$file" --attributes --user CustomerID --map country=Country "$@"
