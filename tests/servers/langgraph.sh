#!/usr/bin/env bash
# The LangGraph server, in memory, with the graph `echo` of langgraph/graph.py; without KEY it asks for none.
#
#   langgraph.sh install DIR                  some seconds, 110 MB
#   langgraph.sh serve DIR STATE PORT [KEY]   ready when GET /ok answers 200, after some seconds
#
# Every run that begins its work adds a line to STATE/runs, `<thread id> <run id> <text>`: what really ran, as the
# other side saw it.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

make() { python_env "$1/python" "$here/locks/langgraph.txt"; }
install() { install_once "$1" make "$here/locks/langgraph.txt"; }

serve() {
  local dir=$1 state=$2 port=$3 key=${4:-} auth=
  mkdir -p "$state"
  dir=$(cd "$dir" && pwd)
  cd "$state"
  # What runs were there belongs to the life of the server before.
  rm -rf .langgraph_api
  cp "$here/langgraph/graph.py" "$here/langgraph/auth.py" .
  [[ -z $key ]] || auth=', "auth": {"path": "./auth.py:auth"}'
  printf '{"dependencies": ["."], "graphs": {"echo": "./graph.py:graph"}%s}\n' "$auth" >langgraph.json
  export FLOWGATE_TEST_KEY=$key FLOWGATE_TEST_RUNS=$PWD/runs LANGSMITH_TRACING=false LANGGRAPH_CLI_NO_ANALYTICS=1
  exec "$dir/python/bin/langgraph" dev --no-browser --no-reload --host 127.0.0.1 --port "$port" --n-jobs-per-worker 10
}

run "$@"
