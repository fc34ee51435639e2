"""Load: a generator of shoppers, and (next) benchmarks beside peers."""
