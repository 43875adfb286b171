#!/usr/bin/env bash
# One virtual environment from a lock: `setup.sh cpu` (default) or `setup.sh gpu` into .venv, `setup.sh bench` (or bench-gpu)
# into .venv-bench.
# pip's own configuration (index, find-links, certificate) is honoured. uv does the work: the one on PATH, or one put into
# the environment by pip. Takes under a minute where the packages are near, a few minutes otherwise.
set -euo pipefail
cd "$(dirname "$0")/../.."
kind=${1:-cpu}
lock=requirements/$kind.txt
[ -f "$lock" ] || { echo "setup: no lock $lock; choose cpu, gpu, bench or bench-gpu" >&2; exit 2; }
# The peers that benchmarks compare with stay out of the product's environment.
case $kind in bench*) venv=.venv-bench ;; *) venv=.venv ;; esac
stamp=$venv/.lock-$kind
if [ -f "$stamp" ] && cmp -s "$lock" "$stamp"; then exit 0; fi

python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3.11 python3.12 python3; do
    if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then
      python=$candidate; break
    fi
  done
fi
[ -n "$python" ] || { echo "setup: Python 3.11 or 3.12 is needed (set PYTHON=/path/to/python)" >&2; exit 2; }

started=$SECONDS
[ -x $venv/bin/python ] || "$python" -m venv $venv
if command -v uv >/dev/null 2>&1; then uv=uv; else
  $venv/bin/python -m pip --version >/dev/null 2>&1 || $venv/bin/python -m ensurepip --upgrade >/dev/null
  $venv/bin/python -m pip install --quiet --disable-pip-version-check uv
  uv=$venv/bin/uv
fi

# uv reads no pip configuration: hand it on. pip takes the best version of all indexes, so uv is told to.
options=(--index-strategy unsafe-best-match)
while IFS='=' read -r key value; do
  value=${value#\'}; value=${value%\'}
  case "$key" in
    *.find-links) for v in $value; do options+=(--find-links "$v"); done ;;
    *.extra-index-url) for v in $value; do options+=(--extra-index-url "$v"); done ;;
    *.index-url) options+=(--index-url "$value") ;;
    *.cert) export SSL_CERT_FILE=$value ;;
  esac
done < <("$python" -m pip config list 2>/dev/null)

export VIRTUAL_ENV=$PWD/$venv UV_LINK_MODE=${UV_LINK_MODE:-hardlink}
if [[ $kind != *gpu ]]; then
  torch=$(grep -E '^torch==' "$lock")
  if ! "$uv" pip install --quiet --dry-run --no-deps "${options[@]}" "$torch" 2>/dev/null; then
    # The CPU wheel is not where pip looks: PyTorch's own CPU index has it.
    options+=(--extra-index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}")
  fi
fi
echo "setup: installing $(grep -cE '^[a-zA-Z0-9]' "$lock") packages from $lock" >&2
# --no-deps: the lock is complete, and leaves out what requirements/README.md says.
# --compile-bytecode: a shell with PYTHONDONTWRITEBYTECODE set would otherwise compile torch again in every stage (15 s each).
"$uv" pip install --no-deps --compile-bytecode "${options[@]}" -r "$lock" 2>&1 | { grep -vE '^ [+~-] |^warning: Failed to hardlink' || true; } >&2
"$uv" pip install --quiet --no-deps --no-build-isolation -e . "${options[@]}"
cp "$lock" "$stamp"
echo "setup: $venv is ready after $((SECONDS - started)) s" >&2
