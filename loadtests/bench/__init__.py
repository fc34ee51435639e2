"""Benchmarks that run a peer beside us: `profilegrid bench`, `make bench`. Each row is a function in one of the modules here."""
