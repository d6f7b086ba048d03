#!/usr/bin/env bash
# Make the virtual environment $VENV: torch and torchvision as a pair, Detectron2, and this package, editable.
# Called by `make setup`. pip's own settings (pip.conf, PIP_INDEX_URL ...) decide where packages come from.
set -euo pipefail
VENV=${VENV:-.venv}
PYTHON=${PYTHON:-python3}
COMMIT=02b5c4e295e990042a714712c21dc79b731e8833
REPOSITORY=https://github.com/facebookresearch/detectron2
py="$VENV/bin/python"
pip=("$py" -m pip --disable-pip-version-check install --quiet --progress-bar off)

say() { printf '== %s\n' "$*"; }

[ -x "$py" ] || { say "virtual environment $VENV"; "$PYTHON" -m venv "$VENV"; }
"${pip[@]}" "setuptools<81" wheel

# One command for both: a torch and a torchvision from different sources do not fit each other.
if ! "$py" -c 'import torch, torchvision' 2>/dev/null; then
    say "torch and torchvision (some gigabytes)"
    "${pip[@]}" torch torchvision
fi
if ! "$py" -c 'import torch, torchvision; torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)'; then
    echo "error: torch and torchvision do not fit each other: delete $VENV, and let pip take both from the same index" >&2
    exit 1
fi

say "lesionseg and what it needs"
if "$py" -m pip show --quiet LabGym 2>/dev/null; then
    echo "(pip may complain of LabGym's requirements: no matter, only its detectron2 folder is used)"
fi
"${pip[@]}" --editable ".[detectron2,test,lint]"
if ! "$py" -c 'import cv2' 2>/dev/null; then
    say "opencv-python finds no graphics library (libGL) here: opencv-python-headless in its place"
    "$py" -m pip uninstall --quiet --yes opencv-python
    "${pip[@]}" --force-reinstall --no-deps opencv-python-headless
    "$py" -c 'import cv2' || { echo "error: OpenCV cannot be imported, see above" >&2; exit 1; }
fi

real() { "$py" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("detectron2") is None)'; }
build() { "${pip[@]}" --no-build-isolation --no-deps "$@"; }
if real; then
    say "Detectron2: already installed"
elif [ -n "${DETECTRON2:-}" ]; then
    say "Detectron2: $DETECTRON2"
    # A folder's bare name would be looked up in the package index.
    [ ! -e "$DETECTRON2" ] || DETECTRON2=$(realpath "$DETECTRON2")
    build "$DETECTRON2"
elif command -v git >/dev/null && GIT_TERMINAL_PROMPT=0 timeout 20 git ls-remote "$REPOSITORY" HEAD >/dev/null 2>&1; then
    say "Detectron2: $REPOSITORY at $COMMIT (compiles for some minutes)"
    # Without its CUDA operators, which Mask R-CNN does not use: they want a CUDA toolkit of the version that torch was built with.
    CUDA_VISIBLE_DEVICES="" build "git+$REPOSITORY@$COMMIT" || say "it cannot be built here, see above"
fi
if ! real; then
    say "Detectron2: the copy of 0.6 in the PyPI package LabGym"
    "${pip[@]}" --no-deps --ignore-requires-python "LabGym==3.1.2"
fi
"$py" -c 'from lesionseg._detectron2 import origin; print(origin())'
