# mkdir -p outputs && docker build -t lipcert . && docker run --rm -u "$(id -u)" -v "$PWD/outputs:/work/outputs" lipcert
# For a CPU. The usual torch brings CUDA's libraries along; --build-arg TORCH_INDEX=URL takes it from another index.
FROM python:3.12-slim AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
ARG TORCH_INDEX=
# hadolint ignore=DL3013
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision \
    && pip install --no-cache-dir /wheels/*.whl \
    && install -d -m 1777 /work
# any user may run it, also one that the image does not know
ENV HOME=/tmp USER=lipcert
USER 1000
WORKDIR /work
CMD ["lipcert", "train"]
