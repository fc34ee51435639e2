"""`profilegrid ingest`: files to batches, by columns and expressions, resumable, every bad row told."""
