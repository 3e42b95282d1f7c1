# shellcheck shell=bash
# Sourced by the other scripts: makes .venv once, with the extras in $1.
# Set PYTHON to choose an interpreter (3.11 or newer).

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    if [ -n "$candidate" ] && "$candidate" -c \
      'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  echo "setup: no Python 3.11 or newer found; install one or set PYTHON" >&2
  return 1
}

set_up() {
  local extras=$1 stamp wanted python
  stamp=.venv/.installed
  wanted="$(cat setup.cfg pyproject.toml | cksum) $extras"
  # What one script installed satisfies the other if it holds its extras.
  if [ -f "$stamp" ] && grep -qxF "$wanted" "$stamp"; then
    return
  fi
  if [ ! -x .venv/bin/python ]; then
    python=$(find_python)
    "$python" -m venv .venv
  fi
  echo "setup: installing into .venv (once; takes about a minute)" >&2
  .venv/bin/python -m pip install -qq --disable-pip-version-check \
    --editable ".${extras:+[$extras]}"
  echo "$wanted" >>"$stamp"
}
