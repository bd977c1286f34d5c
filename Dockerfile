# One image for everything of ours: the command line, Prefect server and worker, Dask scheduler and workers.
# It has the CPU build of torch. For NVIDIA GPUs: docker build --build-arg TORCH_INDEX= ...
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# Where pip finds the CPU build of torch. Empty: torch as PyPI has it, with CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Folders or pages of wheels that pip looks into first.
ARG PIP_FIND_LINKS=
WORKDIR /build
RUN python3 -m venv /opt/upres
# What upres needs is in a layer of its own: it is installed again when pyproject.toml changes, not with each
# change of the code. Left out is what torch has for who builds and tests it.
COPY pyproject.toml README.md LICENSE upres_start.py ./
RUN /opt/upres/bin/pip install --no-cache-dir --no-compile ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} '.[postgresql]' \
    && rm -r /opt/upres/lib/python3*/site-packages/torch/test \
             /opt/upres/lib/python3*/site-packages/torch/include \
             /opt/upres/lib/python3*/site-packages/torch/bin
COPY models ./models
COPY pipeline ./pipeline
COPY flows ./flows
# The file system is read only when this runs, so what Python would write at the first start is made here.
RUN /opt/upres/bin/pip install --no-cache-dir --no-compile --no-deps --force-reinstall . \
    && find /opt/upres -name __pycache__ -prune -exec rm -r {} + \
    && /opt/upres/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/upres/lib

FROM ${BASE}
# OpenMP, which torch computes with, is not in the slim image.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1=12.* openssl=3.* \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home upres \
    && mkdir -m 1777 /data /keys /prefect
COPY --from=build /opt/upres /opt/upres
COPY prefect.yaml /opt/upres/
ENV PATH=/opt/upres/bin:$PATH \
    PYTHONSAFEPATH=1 \
    USER=upres \
    DO_NOT_TRACK=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false
USER 1000
WORKDIR /data
CMD ["upres", "--help"]
