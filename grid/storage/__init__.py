"""The only place that touches disk: log, checkpoints, history, ownership of a data folder."""
