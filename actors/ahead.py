"""Imported for its effect, by Ray, in each process that it starts (`RAY_preload_python_modules`)."""

from actors.preloading import load_ahead

load_ahead()
