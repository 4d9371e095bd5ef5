"""`python -m k2_dagster.cli` is `k2`."""

from k2_dagster.cli import main

if __name__ == "__main__":
    main()
