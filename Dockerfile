# One image for everything of ours: the command line, Prefect server and worker, Dask scheduler and workers.
# The CPU build of torch by default; for GPUs: docker build --build-arg TORCH_INDEX= ...
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# Where pip finds the CPU build of torch; empty: torch as PyPI has it, with CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Folders or pages of wheels, for machines that reach no index.
ARG PIP_FIND_LINKS=
WORKDIR /build
COPY pyproject.toml README.md LICENSE upres_start.py ./
COPY models ./models
COPY pipeline ./pipeline
COPY flows ./flows
RUN python3 -m venv /opt/upres \
    && /opt/upres/bin/pip install --no-cache-dir --no-compile ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} '.[postgresql]' \
    && find /opt/upres -name '__pycache__' -prune -exec rm -r {} +

FROM ${BASE}
# OpenMP, which torch computes with, is not in the slim image.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1=12.* \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home upres \
    && mkdir /data && chown upres:upres /data
COPY --from=build /opt/upres /opt/upres
ENV PATH=/opt/upres/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    DO_NOT_TRACK=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false
USER 1000
WORKDIR /data
ENTRYPOINT []
CMD ["upres", "--help"]
