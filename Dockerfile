# Espalier in a container, for amd64 and arm64. The steps before the last stages are those of .ci/run: Deno from npm,
# the locked packages, the tests.
#
#   docker build --tag espalier .
#   docker run --publish 8080:8080 --volume "$PWD/my-artefact:/model:ro" --env ESPALIER_API_KEYS=$KEY espalier
#
# For an NVIDIA GPU, on a Jetson board or elsewhere, with an image that has CUDA's libraries and ONNX Runtime built for
# them (deploy/README.md says how, and which images go with JetPack 6 and 7):
#
#   docker build --tag espalier:jetson --target jetson --build-arg RUNTIME_IMAGE=<that image> \
#     --build-arg ONNXRUNTIME=<path of its libonnxruntime.so> --build-arg NVCC_IMAGE=<image with nvcc> \
#     --build-arg CUDA_ARCHITECTURES=sm_87 .
#
# With Prometheus and Grafana: compose.yaml. On Kubernetes: deploy/README.md.

ARG NODE_IMAGE=node:22-bookworm-slim
ARG RUNTIME_IMAGE=debian:bookworm-slim
ARG NVCC_IMAGE=nvcr.io/nvidia/cuda:12.6.3-devel-ubuntu22.04

FROM ${NODE_IMAGE} AS dependencies
# Deno's binary without npm around it is kept apart: the other images have no npm.
RUN npm install --global deno@2.9.6 \
  && cp "$(find "$(npm root --global)" -type f -name deno -size +20M -print | head -n 1)" /usr/local/bin/deno-binary
WORKDIR /espalier
COPY deno.json deno.lock ./
RUN deno install --frozen
COPY . .

# Our own operators, compiled for the platform that the image is built on.
FROM dependencies AS kernels
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN deno task build

# Not part of the image: docker build --target test .
FROM kernels AS test
RUN deno task test

FROM kernels AS program
# Of ONNX Runtime this platform's library alone.
RUN find node_modules -path '*onnxruntime-node*/bin/napi-v6/*' -type f \
     ! -path "*/linux/$([ "$(uname -m)" = aarch64 ] && echo arm64 || echo x64)/*" -delete \
  && rm -rf tests .ci

FROM ${RUNTIME_IMAGE} AS service
ARG ONNXRUNTIME=""
COPY --from=program /usr/local/bin/deno-binary /usr/local/bin/deno
COPY --from=program /espalier /espalier
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin espalier \
  && install --directory --owner espalier /var/cache/espalier
WORKDIR /espalier
USER espalier
ENV DENO_DIR=/tmp/deno \
  DENO_NO_UPDATE_CHECK=1 \
  ORT_DISABLE_TELEMETRY=1 \
  ESPALIER_ONNXRUNTIME=${ONNXRUNTIME} \
  ESPALIER_HOST=0.0.0.0 \
  ESPALIER_PORT=8080 \
  ESPALIER_MODEL=/model \
  ESPALIER_STEP_TIMES=/var/cache/espalier
VOLUME /model /var/cache/espalier
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
  CMD ["deno", "eval", "Deno.exit((await fetch('http://127.0.0.1:8080/readyz')).ok ? 0 : 1)"]
# FFI cannot be limited to a path: Deno would refuse to read the runtime's memory. The network is not limited either,
# since Prometheus can be anywhere. Sensors are read where the real /sys is mounted, /host/sys (deploy/README.md).
ENTRYPOINT ["deno", "run", "--v8-flags=--max-semi-space-size=4", "--cached-only", "--no-prompt", "--allow-ffi", "--allow-env", "--allow-sys", \
  "--allow-net", "--allow-read=/espalier,/model,/host/sys,/var/cache/espalier", "--allow-write=/var/cache/espalier", "main.ts"]

# Our operators for the board: those for its CPU again, since its system can be older than the one above, and those for
# CUDA. They run on a driver of nvcc's CUDA or a later one.
FROM ${NVCC_IMAGE} AS board-kernels
ARG CUDA_ARCHITECTURES=sm_87
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY --from=dependencies /usr/local/bin/deno-binary /usr/local/bin/deno
COPY --from=dependencies /espalier /espalier
WORKDIR /espalier
ENV DENO_NO_UPDATE_CHECK=1 \
  ESPALIER_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURES}
RUN deno task build \
  && { ls build/kernels/espalier-cuda-*.so \
    || { echo "NVCC_IMAGE has no nvcc that compiles for ${CUDA_ARCHITECTURES}" >&2; exit 1; }; }

# The service on CUDA. ONNX Runtime is RUNTIME_IMAGE's: for arm64 the npm package has no CUDA code.
FROM service AS jetson
ARG CUDA_ARCHITECTURES=sm_87
USER root
RUN test -f "${ESPALIER_ONNXRUNTIME}" && test -f "$(dirname "${ESPALIER_ONNXRUNTIME}")/libonnxruntime_providers_cuda.so" \
  || { echo "Set the build argument ONNXRUNTIME to the path of libonnxruntime.so in RUNTIME_IMAGE," \
    "with libonnxruntime_providers_cuda.so beside it" >&2; exit 1; }
# A Jetson's device nodes are the group's `video`; those of the group `render` too, whose number differs: see
# deploy/jetson/compose.yaml.
RUN usermod --append --groups video espalier
COPY --from=board-kernels /espalier/build /espalier/build
USER espalier
# The library of operators is found by the architectures that it was built for. The service does not start without CUDA.
ENV ESPALIER_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURES} \
  ESPALIER_DEVICE=cuda \
  ESPALIER_SYSFS=/host/sys \
  NVIDIA_VISIBLE_DEVICES=all \
  NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM service
