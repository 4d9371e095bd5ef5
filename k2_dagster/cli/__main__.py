"""`python -m k2_dagster.cli` is `k2`."""

from k2_dagster.cli import run

if __name__ == "__main__":
    run()
