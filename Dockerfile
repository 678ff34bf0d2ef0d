# syntax=docker/dockerfile:1
# Two images from one set of locks: `serve` (worker, server, archiver, model store; no torch) and `train` (runner).
#   docker build --target serve -t tickwise-serve .
ARG PYTHON=python:3.11.14-slim-bookworm

FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PROGRESS_BAR=off
WORKDIR /build

# The build backend is pinned too, so the wheel is built without isolation and without a download of its own.
FROM build AS wheel
COPY requirements-build.lock .
RUN pip install --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY api api
COPY streams streams
COPY model_ops_manager model_ops_manager
COPY data_io data_io
COPY ml_core ml_core
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

FROM build AS serve-environment
RUN python -m venv /opt/tickwise
COPY requirements-serve.lock .
RUN /opt/tickwise/bin/pip install --require-hashes -r requirements-serve.lock
COPY --from=wheel /wheels /wheels
RUN /opt/tickwise/bin/pip install --no-deps /wheels/*.whl

# Torch's usual Linux wheel brings CUDA (4.7 GB). For a CPU image give a lock of the CPU build and its index:
#   --build-arg TRAIN_LOCK=requirements-cpu.lock --build-arg PIP_EXTRA_INDEX_URL=...   (CONTRIBUTING.md says how)
FROM build AS train-environment
ARG TRAIN_LOCK=requirements-train.lock
ARG PIP_EXTRA_INDEX_URL
RUN python -m venv /opt/tickwise
COPY ${TRAIN_LOCK} train.lock
RUN /opt/tickwise/bin/pip install --require-hashes -r train.lock
COPY --from=wheel /wheels /wheels
RUN /opt/tickwise/bin/pip install --no-deps /wheels/*.whl

FROM ${PYTHON} AS base
# The root file system may be read-only: what is written goes to the volume, compiled kernels and scratch to /tmp.
ENV PATH=/opt/tickwise/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/tmp/numba \
    HOME=/tmp \
    GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true \
    TICKWISE_HOME=/var/lib/tickwise \
    TICKWISE_PIPELINES=/etc/tickwise/pipelines
RUN groupadd --system --gid 10001 tickwise \
    && useradd --system --uid 10001 --gid tickwise --no-create-home --shell /usr/sbin/nologin tickwise \
    && install --directory --owner=tickwise --group=tickwise \
        /var/lib/tickwise /var/lib/tickwise-archive /etc/tickwise/pipelines
WORKDIR /var/lib/tickwise
USER 10001:10001
CMD ["tickwise", "--help"]

FROM base AS train
COPY --from=train-environment /opt/tickwise /opt/tickwise

FROM base AS serve
COPY --from=serve-environment /opt/tickwise /opt/tickwise
