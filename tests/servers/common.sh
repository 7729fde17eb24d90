# What the scripts of this folder share; they source it and then say what install and serve mean for their server.
#
#   NAME.sh install DIR                   installs into DIR; does nothing while DIR has what the lock files say
#   NAME.sh serve DIR STATE PORT [...]    becomes the server (same process id), on 127.0.0.1 only; SIGTERM ends it
#
# DIR is only read while a server runs, so any number may run from one; what a server writes goes below STATE.
# DIR/installed is a copy of the files that say what to install, and is written last: an installation that was
# interrupted is begun again.
set -euo pipefail
exec </dev/null
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=$(basename "$0" .sh)

say() { printf '%s: %s\n' "$name" "$*" >&2; }
die() { say "$*"; exit 1; }

# install_once DIR COMMAND FILE... runs COMMAND DIR unless DIR was made from these files.
install_once() {
  local dir=$1 command=$2
  shift 2
  if cat "$@" | cmp -s - "$dir/installed"; then
    return
  fi
  say "installing into $dir"
  rm -rf "$dir"
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd)
  "$command" "$dir" || die "could not be installed into $dir"
  cat "$@" >"$dir/installed"
}

# python_env DIR LOCK makes a virtual environment DIR with what LOCK lists, which is complete.
python_env() {
  # `|| return` throughout: the caller asks whether this failed, and bash then does not stop by itself.
  python3 -m venv "$1" || return
  "$1/bin/python" -m pip install --quiet --disable-pip-version-check uv==0.13.8 || return
  "$1/bin/uv" pip install --quiet --no-deps --python "$1/bin/python" --requirement "$2"
}

# run "$@" of a script: calls its install or its serve.
run() {
  local order=${1:-}
  [[ $order == install || $order == serve ]] || die "usage: $name.sh install DIR | serve DIR STATE PORT [...]"
  shift
  "$order" "$@"
}
