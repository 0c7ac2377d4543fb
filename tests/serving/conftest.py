"""Small runs, and the exports of them."""

from pathlib import Path

import pytest
from support.serving import small_run

import rka_fast


@pytest.fixture(scope="session")
def small_runs(tmp_path_factory):
    """The small run of a model by its name, trained once."""
    runs: dict[str, rka_fast.Run] = {}

    def run(model: str) -> rka_fast.Run:
        if model not in runs:
            runs[model] = small_run(model, tmp_path_factory.mktemp(model))
        return runs[model]

    return run


@pytest.fixture(scope="session")
def exports(small_runs, tmp_path_factory):
    """The ONNX export of the small run of a model by its name, made once."""
    folders: dict[str, Path] = {}

    def folder(model: str) -> Path:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
        if model not in folders:
            out = tmp_path_factory.mktemp("export") / model
            folders[model] = rka_fast.export(small_runs(model), out)
        return folders[model]

    return folder
