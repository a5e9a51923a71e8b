#!/bin/sh
# Installs what requirements/fuzz.lock pins into an environment, or says that this interpreter has to
# do without. Safe to run again.
#
#   requirements/fuzz.sh FOLDER [SECONDS THAT THE RUN WILL TAKE]
set -eu

folder=$1
seconds=${2:-600}
say() { printf 'comity: %s\n' "$*"; }

if [ "$seconds" -lt 380 ]; then
    exit 0 # too short for it: python -m fuzz takes the plain engine
fi

has_atheris() { "$folder/bin/python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("atheris") is None)'; }

if has_atheris; then
    exit 0
fi
say "installing the coverage-guided engine that requirements/fuzz.lock pins"
errors=$("$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    --only-binary :all: --require-hashes --requirement requirements/fuzz.lock 2>&1) || true
if ! has_atheris; then
    say "there is none for this interpreter; the plain engine does the work"
    [ -z "$errors" ] || printf '%s\n' "$errors" | sed 's/^/    /'
fi
