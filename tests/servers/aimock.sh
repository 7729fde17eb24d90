#!/usr/bin/env bash
# CopilotKit's aimock: answers as OpenAI, Anthropic and Ollama do, above all when they fail. What it answers is in
# aimock.json, chosen by the last message of the user.
#
#   hello        "Hello! This is a deterministic answer.", in a stream in pieces
#   slow         an answer whose pieces are 0.4 s apart
#   cut          a stream that is broken off in the middle; not streamed, it is whole
#   fail-429     with Retry-After: 2
#   fail-500, fail-503, fail-529
#
# The message need only contain one of these. The answers to /api/generate go by its prompt. Errors have the shape of
# OpenAI's, on /v1/messages of Anthropic's; Ollama's own are a string instead, for which there are transcripts.
#
#   aimock.sh install DIR                some seconds, 12 MB
#   aimock.sh serve DIR STATE PORT KEY   ready when GET /health answers 200; GET /__aimock/journal: what it was asked
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

make() {
  cp "$here/locks/aimock/package.json" "$here/locks/aimock/package-lock.json" "$here/locks/aimock/.npmrc" "$1"
  (cd "$1" && npm ci --ignore-scripts --loglevel=error >/dev/null)
}

install() { install_once "$1" make "$here/locks/aimock/package-lock.json"; }

serve() {
  local dir=$1 port=$3 key=$4
  AIMOCK_API_KEYS=$key exec node "$dir/node_modules/@copilotkit/aimock/dist/cli.js" --host 127.0.0.1 --port "$port" \
    --fixtures "$here/aimock.json" --validate-on-load --strict
}

run "$@"
