#!/usr/bin/env bash
# Receipt lines, coupon redemptions (day only) and household attributes into a running grid.
set -euo pipefail
folder="${PROFILEGRID_DATA:?names the folder of the data sets}"
profilegrid catalog apply "$(dirname "$0")/catalog.yaml"
profilegrid ingest "$folder/complete_journey_transactions_sample.csv.gz" --user household_id --time transaction_timestamp --event "'purchase'" "$@"
profilegrid ingest "$folder/complete_journey_coupon_redemptions.csv.gz" --user household_id --time redemption_date --timezone America/New_York --event "'redeem'" "$@"
profilegrid ingest "$folder/complete_journey_demographics.csv.gz" --attributes --user household_id "$@"
