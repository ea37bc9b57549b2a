#!/usr/bin/env bash
# Fetches ONNX Runtime with CUDA, for x86-64 and CUDA 13, and the CUDA libraries that it loads.
#
#   tests/gpu/fetch_runtime.sh            # once: 1 GB in cache/, 300 MB of it with --without-cuda
#   . cache/onnxruntime-cuda/env.sh       # sets ESPALIER_ONNXRUNTIME and LD_LIBRARY_PATH
#
# The library and its CUDA provider are in PyPI's package onnxruntime-gpu. Nothing of it goes into git. With
# --without-cuda the libraries of an installed CUDA 13 are taken (cuBLAS, cuRAND, cudart: set LD_LIBRARY_PATH yourself).
# A Jetson needs a build for its own CUDA instead: deploy/README.md.
set -euo pipefail
version=1.30.0
folder=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/cache/onnxruntime-cuda
cuda=(nvidia-cublas==13.1.2.11 nvidia-curand==10.4.5.25 nvidia-cuda-runtime==13.0.96)

case "${1-}" in
  "") ;;
  --without-cuda) cuda=() ;;
  *) sed -n '2,9s/^# \?//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
if [ "$(uname -s) $(uname -m)" != "Linux x86_64" ]; then
  echo "PyPI has ONNX Runtime with CUDA for Linux on x86-64 alone, not for $(uname -s) on $(uname -m)" >&2
  exit 1
fi

mkdir -p "$folder/parts"
trap 'rm -rf "$folder/parts"' EXIT
# The library does not depend on the version of Python that the package is for.
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  --platform manylinux_2_28_x86_64 --dest "$folder/parts" "onnxruntime-gpu==$version"
python3 - "$folder/parts"/onnxruntime_gpu-*.whl "$folder" <<'PYTHON'
import os, shutil, sys, zipfile

package, folder = sys.argv[1:]
with zipfile.ZipFile(package) as archive:
    for name in archive.namelist():
        file = os.path.basename(name)
        wanted = file.startswith(("libonnxruntime.so.", "libonnxruntime_providers_shared", "libonnxruntime_providers_cuda"))
        if wanted:
            with archive.open(name) as source, open(os.path.join(folder, file), "wb") as target:
                shutil.copyfileobj(source, target)
PYTHON
ln -sfn "libonnxruntime.so.$version" "$folder/libonnxruntime.so.1"

libraries=""
if [ ${#cuda[@]} -gt 0 ]; then
  python3 -m pip install --quiet --no-deps --upgrade --only-binary=:all: --target "$folder/cuda" "${cuda[@]}"
  for library in libcublas.so.13 libcudart.so.13 libcurand.so.10; do
    found=$(find "$folder/cuda" -name "$library" | head -n 1)
    if [ -z "$found" ]; then
      echo "No $library in ${cuda[*]}" >&2
      exit 1
    fi
    case ":$libraries:" in *":$(dirname "$found"):"*) ;; *) libraries+=${libraries:+:}$(dirname "$found") ;; esac
  done
fi

{
  echo "export ESPALIER_ONNXRUNTIME=\"$folder/libonnxruntime.so.$version\""
  [ -z "$libraries" ] || echo "export LD_LIBRARY_PATH=\"$libraries\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}\""
} > "$folder/env.sh"
echo "Now: . $folder/env.sh"
