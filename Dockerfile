# One image for everything of ours: the command line, Prefect server and worker, Dask scheduler and workers.
# It has the CPU build of torch. For NVIDIA GPUs: docker build --build-arg TORCH_INDEX= ...
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# Where pip finds the CPU build of torch. Empty: torch as PyPI has it, with CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Folders or pages of wheels that pip looks into first.
ARG PIP_FIND_LINKS=
WORKDIR /build
# pip is not needed later, so the environment has none.
RUN python3 -m venv --without-pip /opt/upres
# What upres needs is in a layer of its own, which is made again when pyproject.toml changes, not with each change of
# the code. Left out is what torch has for those who build and test it.
COPY pyproject.toml README.md LICENSE upres_forked.py upres_start.py ./
RUN python3 -m pip --python /opt/upres/bin/python install --no-cache-dir --no-compile \
        ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} '.[postgresql]' \
    && torch="$(echo /opt/upres/lib/python3*/site-packages/torch)" \
    && rm -r "${torch}/test" "${torch}/include" \
    && find "${torch}/bin" -type f ! -name torch_shm_manager -delete
COPY models ./models
COPY pipeline ./pipeline
COPY flows ./flows
# Of upres, the first step installed its command alone. The file system is read only when this runs, so Python compiles
# here what is imported at each start: it would take several seconds each time. All modules would add 280 MB.
RUN packages="$(echo /opt/upres/lib/python3*/site-packages)" \
    && cp -r models pipeline flows "${packages}" \
    && /opt/upres/bin/python -m compileall -q "${packages}"/models "${packages}"/pipeline "${packages}"/flows \
        "${packages}"/upres_*.py \
    && HOME=/tmp PREFECT_HOME=/tmp/prefect /opt/upres/bin/python -P -c 'import \
        flows.main_job, flows.nightly, flows.prepare, flows.rerun, flows.score, flows.train, \
        flows.train_listening, flows.upscale, openvino, pipeline.jobs.perform, \
        pipeline.reports.dataset_report, \
        distributed.cli.dask_scheduler, distributed.cli.dask_worker, distributed.http.health, \
        prefect.cli.deploy, prefect.cli.server, prefect.cli.work_pool, prefect.cli.worker, prefect.engine, \
        prefect.server.api.server, prefect.workers.process'

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
