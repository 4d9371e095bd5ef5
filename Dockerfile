# One image for every K2 service; the command decides which it is: `k2 init`, `k2 ingest`, Dagster's three processes.
FROM python:3.11.14-slim-trixie AS build

WORKDIR /build
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY k2_dagster k2_dagster
COPY deploy/docker/unneeded.py ./
# The lock is the one that the tests ran with, hashes checked; what only tests and the development stack need goes again.
RUN python -m venv /opt/k2/venv \
    && /opt/k2/venv/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement requirements.lock \
    && /opt/k2/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/k2/venv/bin/python unneeded.py > unneeded.txt \
    && /opt/k2/venv/bin/pip uninstall --yes --requirement unneeded.txt

FROM python:3.11.14-slim-trixie

# tini passes signals on and reaps: a code server's run workers end with it
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /var/lib/k2 k2

COPY --from=build /opt/k2/venv /opt/k2/venv
COPY --chown=k2:k2 k2_dagster/devstack/dagster.yaml /opt/k2/dagster/dagster.yaml
# Owned by k2, so that the named volumes that are mounted here are too
RUN install --directory --owner=k2 --group=k2 /opt/k2/dagster /opt/k2/dagster/storage /var/lib/k2/numba

ENV PATH=/opt/k2/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    K2_HOME=/var/lib/k2 \
    DAGSTER_HOME=/opt/k2/dagster \
    NUMBA_CACHE_DIR=/var/lib/k2/numba
USER k2
WORKDIR /var/lib/k2
# So that the first drain does not pay for compiling (on another kind of processor it does, once per container)
RUN python -m k2_dagster.ingest.warm

ENTRYPOINT ["tini", "-g", "--"]
CMD ["k2", "--help"]
