#!/bin/sh
# Makes the virtual environment that `make` works in: finds a Python, installs what
# development.lock pins and comity itself, and says what it is doing. Safe to run again.
#
#   requirements/environment.sh FOLDER
#
# PYTHON=… chooses the interpreter. Nothing is needed beside it: no compiler, no other tool.
set -eu

folder=$1
lock=requirements/development.lock
least="3.11"

say() { printf 'comity: %s\n' "$*"; }

version_of() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
# Debian leaves ensurepip out of python3 and puts it into python3-venv.
makes_environments() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

find_python() {
    too_old=""
    incomplete=""
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        # A name on the path may be an empty shim: only what runs counts.
        version=$(version_of "$candidate") || continue
        if ! is_new_enough "$candidate"; then
            too_old="$too_old $candidate ($version)"
        elif ! makes_environments "$candidate"; then
            incomplete="$incomplete $candidate"
        else
            python=$candidate
            return 0
        fi
    done
    if [ -n "$incomplete" ]; then
        say "found$incomplete, but without the modules venv and ensurepip."
        say "on Debian and Ubuntu: apt-get install python3-venv (or python3.X-venv for python3.X)"
    else
        say "needs Python $least or newer; found:${too_old:- none}."
        say "install one (Debian 12: apt-get install python3 python3-venv),"
        say "or name one: make PYTHON=/path/to/python3.12"
    fi >&2
    return 1
}

started=$(date +%s)
if ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    find_python
    say "making $folder with $python ($version)"
    rm -rf "$folder"
    "$python" -m venv "$folder"
fi

say "installing the $(grep -c '^[A-Za-z]' "$lock") packages that $lock pins"
pip_install() {
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "$@" || {
        say "the installation failed; what went wrong stands above. Is the package index within reach?" >&2
        exit 1
    }
}
pip_install --require-hashes --requirement "$lock"
pip_install --no-deps --no-build-isolation --editable .
say "ready after $(($(date +%s) - started)) s"
