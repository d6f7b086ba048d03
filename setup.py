"""Packaging. PyTorch and Detectron2 are installed by `make setup`: README says where they come from and why."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
EXPORT = ["nncf", "onnx", "onnxruntime", "openvino>=2024.0"]
version = re.search(r'__version__ = "(.+)"', (ROOT / "lesionseg/__init__.py").read_text()).group(1)

setup(
    name="lesionseg",
    version=version,
    description="Dermoscopy lesion segmentation with Detectron2's Mask R-CNN",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["lesionseg", "lesionseg.*"]),
    package_data={"lesionseg": ["*.html", "*.css", "*.js"]},
    install_requires=[
        # what preparing data, scoring and drawing need; no network framework
        "imagehash",
        "isal",
        "jinja2",
        "joblib",
        "matplotlib",
        "numpy",
        "opencv-python",
        "Pillow>=9.1",
        "pycocotools>=2.0.6",
        "PyYAML",
        "scikit-learn",
        "scipy",
        "tabulate",
        "threadpoolctl",
        "tqdm",
    ],
    extras_require={
        # what Detectron2 itself imports: it comes in without its dependencies (tools/setup_env.sh)
        "detectron2": [
            "cloudpickle",
            "fvcore>=0.1.5,<0.1.6",
            "hydra-core>=1.1",
            "iopath>=0.1.7",
            "omegaconf>=2.1,<2.4",
            "packaging",
            "setuptools<81",  # model_zoo imports pkg_resources, which later ones no longer have
            "tensorboard",
            "termcolor",
            "yacs>=0.1.8",
        ],
        # what runs exported models, without torch and Detectron2
        "runtime": ["onnxruntime", "openvino>=2024.0", "yacs>=0.1.8"],
        # what tools/export_model.py needs besides torch and Detectron2
        "export": EXPORT,
        # tools/predict_cluster.py
        "cluster": ["pyarrow>=21", "ray[data]"],
        # peers that benchmarks/ measures itself against (Ultralytics is AGPL-3.0 and stays out)
        "bench": ["segmentation-models-pytorch"],
        "test": [
            *EXPORT,
            "isic-challenge-scoring",
            "pytest",
            "pytest-xdist",
            "ray[data]",
            "surface-distance",
        ],
        "lint": ["mypy", "ruff"],
    },
)
