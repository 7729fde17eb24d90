#!/usr/bin/env bash
# Langflow without its user interface, on SQLite, with automatic login; running a flow still takes an API key.
#
#   langflow.sh install DIR            about a minute, 1.4 GB
#   langflow.sh serve DIR STATE PORT   ready when GET /health_check answers 200, after about half a minute
#   langflow_setup.py URL DIR/flows    then makes the key and the flows (langflow_flows.py), and prints them as JSON
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

make() {
  python_env "$1/python" "$here/locks/langflow.txt" || return
  LANGFLOW_CONFIG_DIR=$1/home DO_NOT_TRACK=true "$1/python/bin/python" "$here/langflow_flows.py" "$1/flows" >/dev/null
}

install() { install_once "$1" make "$here/locks/langflow.txt" "$here/langflow_flows.py"; }

serve() {
  local dir=$1 state=$2 port=$3
  mkdir -p "$state"
  state=$(cd "$state" && pwd)
  export LANGFLOW_CONFIG_DIR=$state LANGFLOW_DATABASE_URL=sqlite:///$state/langflow.db
  export DO_NOT_TRACK=true LANGFLOW_AUTO_LOGIN=true LANGFLOW_LOG_LEVEL=error HF_HUB_OFFLINE=1
  export LANGFLOW_CREATE_STARTER_PROJECTS=false LANGFLOW_UPDATE_STARTER_PROJECTS=false
  exec "$dir/python/bin/langflow" run --backend-only --no-open-browser --host 127.0.0.1 --port "$port" --workers 1
}

run "$@"
