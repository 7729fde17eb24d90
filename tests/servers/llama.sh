#!/usr/bin/env bash
# llama.cpp's own HTTP server with a model made here of random weights: OpenAI's chat and responses, Anthropic's
# messages. Any model name is taken; at temperature 0 its (meaningless) words are always the same.
#
#   llama.sh install DIR                           some seconds, 210 MB
#   llama.sh serve DIR STATE PORT [KEY] [MODEL]    ready when GET /health answers 200; MODEL is tiny (thousands of
#                                                  tokens a second, may stop by itself) or slow (about a hundred,
#                                                  runs until max_tokens)
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

make() {
  python_env "$1/python" "$here/locks/llama.txt" || return
  local model
  for model in tiny slow; do
    "$1/python/bin/python" "$here/llama_model.py" "$1/$model.gguf" "$model" || return
  done
}

install() { install_once "$1" make "$here/locks/llama.txt" "$here/llama_model.py"; }

serve() {
  local dir=$1 port=$3 key=${4:-} model=${5:-tiny}
  exec "$dir/python/bin/python" "$here/llama_serve.py" "$dir/$model.gguf" "$port" "$key"
}

run "$@"
