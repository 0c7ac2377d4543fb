"""What the whole suite shares; fixtures shared with the benchmarks are in ../conftest.py."""

import sys

import pytest
import torch


@pytest.fixture(scope="session")
def log(tmp_path_factory):
    """A small interaction log."""
    from support.runs import write_log

    return write_log(tmp_path_factory.mktemp("log") / "log.txt")


@pytest.fixture(scope="session", autouse=True)
def _curves_are_not_drawn():
    """To draw one costs more than a small training does: they are tests/training/test_curves.py's.

    Trainings in processes of their own draw theirs.
    """
    trainer = sys.modules.get("rka_fast.training.trainer")
    with pytest.MonkeyPatch.context() as patch:
        if trainer is not None:
            patch.setattr(
                trainer,
                "curve_png",
                lambda curve, _: b"a curve" if any(curve.valid.values()) else None,
            )
        yield


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
