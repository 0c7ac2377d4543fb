"""Files that run where rka_fast is not."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from rka_fast import KernelizedAttention, export, swap_attention, use_draws, use_relations
from rka_fast.context import told
from rka_fast.ops.library import plain_operators

D, H = 16, 4

RUNNERS = {
    ".onnx": """
import onnxruntime
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
names = [x.name for x in session.get_inputs()]
def run(*inputs):
    feed = {n: x.numpy() for n, x in zip(names, inputs, strict=True)}
    return torch.from_numpy(session.run(None, feed)[0])
""",
    ".pt2": """
run = torch._inductor.aoti_load_package(path)
""",
}


def runs_elsewhere(path, tmp_path, model: nn.Module, inputs: list[tuple]) -> None:
    """The file gives the model's outputs to 1e-6 of the largest, without rka_fast."""
    with torch.no_grad():
        expected = [model(*x) for x in inputs]
    torch.save((inputs, expected), tmp_path / "cases.pt")
    code = (
        "import sys, torch\nsys.modules['rka_fast'] = None\npath, cases = sys.argv[1:]\n"
        + RUNNERS[path.suffix]
        + "for inputs, expected in zip(*torch.load(cases), strict=True):\n"
        "    worst = (run(*inputs) - expected).abs().max() / expected.abs().max()\n"
        "    assert worst <= 1e-6, worst\n"
        "try:\n    import rka_fast\nexcept ImportError:\n    print('without')\n"
    )
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "cases.pt")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "without" in result.stdout


@pytest.fixture(params=[".onnx", ".pt2"])  # for the second C++ is compiled
def suffix(request) -> str:
    if request.param == ".onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    return request.param


class SelfAttention(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, x):
        return self.attention(x, x, x)[0]


@pytest.mark.slow
def test_one_attention_for_any_length(suffix, tmp_path):
    attention = KernelizedAttention(D, H, batch_first=True, activation="tanh").eval()
    path = export(attention, tmp_path / f"attention{suffix}")
    inputs = [(torch.randn(b, n, D),) for b, n in ((2, 8), (3, 5), (2, 31))]
    runs_elsewhere(path, tmp_path, SelfAttention(attention), inputs)


class CrossAttention(SelfAttention):
    def forward(self, query, key, value):
        return self.attention(query, key, value, need_weights=False)[0]


class NormalisedQueries(SelfAttention):
    def forward(self, query, x):
        return self.attention(query, x, x, need_weights=False)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "inputs"), [(CrossAttention, 3), (NormalisedQueries, 2)])
def test_the_export_prints_nothing(kind, inputs, tmp_path, caplog, capfd):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    model = kind(KernelizedAttention(D, H, batch_first=True)).eval()
    args = tuple(torch.randn(2, 8, D) for _ in range(inputs))
    with caplog.at_level("WARNING"):
        export(model, tmp_path / "model.onnx", args)
    assert caplog.text == "" and "".join(capfd.readouterr()) == ""


class Classifier(nn.Module):
    """Tokens with padding through an encoder, causal, to a class."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, D)
        layer = nn.TransformerEncoderLayer(D, H, 32, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(D, 3)

    def forward(self, tokens, mask=None):
        padding = tokens == 0
        causal = mask is not None
        hidden = self.encoder(self.embed(tokens), mask, padding, is_causal=causal)
        return self.head(hidden[:, 0])


@pytest.mark.slow
def test_a_model_with_masks(suffix, tmp_path):
    model = Classifier().eval()
    swap_attention(model, start="rksa")

    def tokens(b, n):
        x = torch.randint(1, 11, (b, n))
        x[0, n - 2 :] = 0
        return x

    path = export(model, tmp_path / f"model{suffix}", (tokens(2, 8),))
    runs_elsewhere(path, tmp_path, model, [(tokens(b, n),) for b, n in ((2, 8), (3, 5), (4, 19))])


class WithRelations(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = KernelizedAttention(D, H, batch_first=True, user_dim=3)

    def forward(self, x, counts, user):
        with use_relations(self, cooccurrence=counts, user=user):
            return self.attention(x, x, x, need_weights=False, is_causal=True)[0]


@pytest.mark.slow
def test_counts_and_users_are_inputs(suffix, tmp_path):
    model = WithRelations().eval()

    def case(b, n):
        incidence = torch.randint(0, 2, (b, n, 6)).float()
        return torch.randn(b, n, D), incidence @ incidence.mT, torch.randn(b, 3)

    path = export(model, tmp_path / f"relations{suffix}", case(2, 8))
    runs_elsewhere(path, tmp_path, model, [case(b, n) for b, n in ((2, 8), (3, 5), (2, 17))])


@pytest.mark.slow
def test_keyword_inputs_and_location(suffix, tmp_path):
    model = Classifier().eval()
    swap_attention(model, start="rksa")
    tokens, mask = torch.randint(1, 11, (2, 8)), torch.ones(8, 8, dtype=torch.bool).triu(1)
    path = export(model, tmp_path / f"located{suffix}", (tokens,), {"mask": mask}, mode="location")

    class Located(nn.Module):
        def forward(self, tokens, mask):
            with use_draws(model, "location"):
                return model(tokens, mask=mask)

    if suffix == ".onnx":  # whose inputs have no keywords
        runs_elsewhere(path, tmp_path, Located(), [(tokens, mask)])
    else:
        loaded = torch._inductor.aoti_load_package(str(path))
        torch.testing.assert_close(loaded(tokens, mask=mask), Located()(tokens, mask))


@pytest.mark.slow
def test_pytorchs_own_onnx_export_takes_the_mean(tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    model = SelfAttention(KernelizedAttention(D, H, batch_first=True)).eval()
    x, path = torch.randn(2, 8, D), tmp_path / "own.onnx"
    torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
    runs_elsewhere(path, tmp_path, model, [(x,)])


class Told(nn.Module):
    """An attention of an integration: it takes relations and modes, and is none of ours."""

    takes_relations = True

    def forward(self, x):
        return x * {"mean": 2.0, "location": 3.0}[told(self).mode or "mean"]


def test_the_mode_reaches_attentions_of_integrations(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = export(Told().eval(), tmp_path / "told.onnx", (torch.ones(2, 3),), mode="location")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": torch.ones(4, 5).numpy()})
    assert (found == 3.0).all()


def test_a_program_that_draws_is_refused():
    model = SelfAttention(KernelizedAttention(D, H, batch_first=True))
    with plain_operators(), pytest.raises(ValueError, match="'sample'.*use_draws"):
        torch.export.export(model, (torch.randn(2, 8, D),), strict=False)


def test_errors(tmp_path):
    attention = KernelizedAttention(D, H, batch_first=True).eval()
    with pytest.raises(ValueError, match=r"path: expected .*\.onnx \(ONNX\).*'model.pt'"):
        export(attention, "model.pt")
    with pytest.raises(ValueError, match="format: expected it with a run alone, got 'aoti'"):
        export(attention, tmp_path / "x.onnx", format="aoti")
    with pytest.raises(ValueError, match="mode: expected mean or location, got 'sample'"):
        export(attention, tmp_path / "x.onnx", mode="sample")
    with pytest.raises(ValueError, match="args: expected example inputs of Linear"):
        export(nn.Linear(2, 2).eval(), tmp_path / "x.onnx")
    with pytest.raises(ValueError, match=r"model.eval\(\)"):
        export(attention.train(), tmp_path / "x.onnx")
    attention.eval()
    with pytest.raises(
        TypeError, match="model: expected a torch.nn.Module or an rka_fast.Run, got NoneType"
    ):
        export(None, tmp_path / "x.onnx")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="path: expected a name or pathlib.Path, got NoneType"):
        export(attention, None)  # pyright: ignore[reportArgumentType]
    x = torch.zeros(2, 8, D)
    with pytest.raises(TypeError, match=r"args: expected a tuple.*got Tensor; pass \(x,\)"):
        export(attention, tmp_path / "x.onnx", x)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="keywords: expected a dict of example inputs, got list"):
        export(attention, tmp_path / "x.onnx", (x, x, x), [1])  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="args, keywords: .*KernelizedAttention.forward.*'nope'"):
        export(attention, tmp_path / "x.onnx", (x, x, x), {"nope": x})
