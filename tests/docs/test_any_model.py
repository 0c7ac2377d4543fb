"""docs/any_model.md: its Python blocks run, one after the other."""

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).resolve().parents[2] / "docs" / "any_model.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_recipes_run():
    for package in ("peft", "transformers", "onnx", "onnxscript"):
        pytest.importorskip(package)
    names: dict = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    for block in blocks:
        exec(block, names)
    assert names["names"] == ["layers.0.self_attn", "layers.1.self_attn"]
    assert names["found"].std.min() > 0
    assert names["probabilities"].draws.shape == (16, 8, 64)
    assert not torch.allclose(names["related"], names["model"](names["x"]))
    assert names["big"].spread_query.weight.std() > 0.05
    assert (names["folder"] / "model.onnx").stat().st_size > 1000
    key = "transformer.h.0.attn.rka_fast.key.weight"
    assert torch.equal(names["again"].state_dict()[key], names["gpt2"].state_dict()[key])
