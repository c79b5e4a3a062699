# Two targets: `cpu` (default) and `cuda`. docker/README.md describes how to build and run them.
# For a small image without torch, which serves the synthetic models: --build-arg EXTRAS=production
FROM python:3.11-slim-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/frontrunner
ENV PATH=/opt/frontrunner/bin:$PATH
# Dependencies come first, without the service, because they change rarely.
COPY pyproject.toml README.md LICENSE ./
COPY app/__init__.py app/
COPY frontrunner/__init__.py frontrunner/
COPY models/__init__.py models/

# GPU: the CUDA wheels, which are pip's default on Linux.
FROM build AS build-cuda
ARG EXTRAS=models,production,mcp,otel
# hadolint ignore=DL3013
RUN pip install ".[${EXTRAS}]"
COPY app app
COPY frontrunner frontrunner
COPY models models
RUN pip install --no-deps --force-reinstall .

# CPU: TORCH_INDEX may name an index of wheels without CUDA, a tenth of the size.
FROM build AS build-cpu
ARG EXTRAS=models,production,mcp,otel
ARG TORCH_INDEX=""
# hadolint ignore=DL3013
RUN PIP_EXTRA_INDEX_URL="${TORCH_INDEX}" pip install ".[${EXTRAS}]"
COPY app app
COPY frontrunner frontrunner
COPY models models
RUN pip install --no-deps --force-reinstall .

FROM python:3.11-slim-bookworm AS run
RUN groupadd --gid 10001 frontrunner \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /tmp --shell /usr/sbin/nologin frontrunner \
    && install -d -o 10001 -g 10001 /data /cache
ENV PATH=/opt/frontrunner/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/cache \
    FRONTRUNNER_HOST=0.0.0.0 \
    FRONTRUNNER_PORT=8000 \
    FRONTRUNNER_DATA_DIR=/data \
    FRONTRUNNER_LOG_FORMAT=json
# /data holds the database and the images unless other stores are configured, /cache files of hub models.
VOLUME ["/data", "/cache"]
WORKDIR /data
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['FRONTRUNNER_PORT'] + '/healthz', timeout=4)"]
ENTRYPOINT ["frontrunner"]
CMD ["serve"]

FROM run AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility FRONTRUNNER_DEVICE=cuda
COPY --from=build-cuda /opt/frontrunner /opt/frontrunner

FROM run AS cpu
COPY --from=build-cpu /opt/frontrunner /opt/frontrunner
