"""`python -m loadtests.bench`: as `profilegrid bench`."""

import typer

from loadtests.bench.cli import bench

if __name__ == "__main__":
    typer.run(bench)
