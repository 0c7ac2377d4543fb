"""What PyTorch and its ecosystem do to a module: compile, save, quantise, prune, adapt, reset."""

import copy

import pytest
import torch
from support.processes import python
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from rka_fast import KernelizedAttention

B, N, D, H = 3, 7, 12, 2


@pytest.fixture
def attention() -> KernelizedAttention:
    return KernelizedAttention(D, H, batch_first=True).eval()


def close(actual, expected):
    """Equal up to float32 rounding of sums over at most N * D terms of size about one."""
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_encoders_fused_path_does_not_pass_it_by(norm_first, monkeypatch):
    layer = nn.TransformerEncoderLayer(D, H, 16, 0.0, batch_first=True, norm_first=norm_first)
    layer.self_attn = KernelizedAttention(D, H, batch_first=True)
    calls = []
    forward = KernelizedAttention.forward
    monkeypatch.setattr(  # no hook of ours: a hook alone keeps the fused path away
        KernelizedAttention, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k)
    )
    with torch.no_grad():
        layer.eval()(torch.randn(B, N, D))
        copy.deepcopy(layer)(torch.randn(B, N, D))
    assert calls == [1, 1]


class CrossAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = KernelizedAttention(D, H, batch_first=True)

    def forward(self, x, memory):
        return self.attention(x, memory, memory, need_weights=False)[0]


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = KernelizedAttention(D, H, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


class Bare(nn.Module):
    """The module itself is compiled and its inputs are the frame's."""

    def __init__(self, **options):
        super().__init__()
        attention = KernelizedAttention(D, H, batch_first=True).eval()
        self.attention = torch.compile(attention, **options)

    def forward(self, x):
        return self.attention(x, x, x)[0]


MODELS = {
    "self": (SelfAttention, 1),
    "cross": (CrossAttention, 2),
    "post-norm encoder": (
        lambda: nn.TransformerEncoderLayer(D, H, 16, 0.0, batch_first=True), 1
    ),
}  # fmt: skip


def build(name: str) -> tuple[nn.Module, int]:
    make, inputs = MODELS[name]
    model = make()
    if "encoder" in name:
        model.self_attn = KernelizedAttention(D, H, batch_first=True)
    return model.eval(), inputs


SAME, CHANGING = [N] * 5, [N, 9, 5, 6, 12, 8]
SLOW = pytest.mark.slow  # a second of the compiler's for each; one case of each test is quick


@pytest.mark.parametrize(
    ("name", "lengths"),
    [("self", CHANGING)]
    + [pytest.param(name, SAME, marks=SLOW) for name in MODELS]
    + [pytest.param(name, CHANGING, marks=SLOW) for name in list(MODELS)[1:]],
)
def test_a_compiled_model_is_one_graph_in_a_loop(name, lengths):
    torch._dynamo.reset()
    model, inputs = build(name)
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for n in lengths:
        x = [torch.randn(B, n, D) for _ in range(inputs)]
        close(compiled(*x), model(*x))
    assert counter.frame_count == (1 if len(set(lengths)) == 1 else 2)


@pytest.mark.parametrize("lengths", [SAME, pytest.param(CHANGING, marks=SLOW)])
def test_the_bare_module_compiled_is_one_graph_in_a_loop(lengths):
    torch._dynamo.reset()
    counter = CompileCounter()
    model = Bare(fullgraph=True, backend=counter)
    for n in lengths:
        x = torch.randn(B, n, D)
        close(model(x), model.attention._orig_mod(x, x, x)[0])
    assert counter.frame_count == (1 if len(set(lengths)) == 1 else 2)


@pytest.mark.parametrize(
    ("name", "train"),
    [("self", True)]
    + [pytest.param(name, False, marks=SLOW) for name in MODELS]
    + [pytest.param(name, True, marks=SLOW) for name in list(MODELS)[1:]],
)
def test_dynamic_shapes_are_one_graph_for_all_lengths(name, train):
    torch._dynamo.reset()
    model, inputs = build(name)
    model.train(train)
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    for n in (N, 9, 5):
        x = [torch.randn(B, n, D) for _ in range(inputs)]
        output = compiled(*x)
        if not train:
            close(output, model(*x))
    assert counter.frame_count == 1


PROGRAMS = {
    "export": """
torch.export.save(torch.export.export(model, (x,)), path)
""",
    "aoti": """
torch._inductor.aoti_compile_and_package(torch.export.export(model, (x,)), package_path=path)
""",
    "jit": """
torch.jit.trace(model, (x,), check_trace=False).save(path)
""",
}
LOADERS = {
    "export": "torch.export.load(path).module()",
    "aoti": "torch._inductor.aoti_load_package(path)",
    "jit": "torch.jit.load(path)",
}
PREAMBLE = """
import sys, torch
from torch import nn
from rka_fast import KernelizedAttention
path, kept = sys.argv[1:]
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = KernelizedAttention(12, 2, batch_first=True, activation="tanh")
    def forward(self, x):
        return self.attention(x, x, x, mode="sample", seed=SEED)[0]
SEED = torch.tensor(3)
"""


@pytest.mark.slow  # in one process: tests/test_exporting.py
@pytest.mark.parametrize("kind", ["export", "jit", "aoti"])
def test_a_saved_program_runs_in_a_fresh_process(kind, tmp_path):
    """In which nothing but `import rka_fast` came before it."""
    path, kept = tmp_path / ("program.pt2" if kind != "jit" else "program.pt"), tmp_path / "kept.pt"

    def run(body: str) -> None:
        result = python("-c", PREAMBLE + body, path, kept)
        assert result.returncode == 0, result.stderr

    run(
        "torch.manual_seed(0)\nx = torch.randn(2, 5, 12)\nmodel = Model().eval()\n"
        "with torch.no_grad():\n    expected = model(x)\n"
        "    torch.save((x, expected), kept)\n" + PROGRAMS[kind].replace("\n", "\n    ")
    )
    run(
        "x, expected = torch.load(kept)\n"
        f"with torch.no_grad():\n    actual = {LOADERS[kind]}(x)\n"
        "torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-6)\n"
    )


def test_hooks_of_the_projections_are_called(attention):
    calls = []
    for name in ("spread_query", "spread_key", "out_proj"):
        attention.get_submodule(name).register_forward_hook(lambda *_, n=name: calls.append(n))
    x = torch.randn(B, N, D)
    attention(x, x, x)
    assert sorted(calls) == ["out_proj", "spread_key", "spread_query"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dynamic_quantisation_takes_the_projections(attention):
    quantised = torch.ao.quantization.quantize_dynamic(attention, {nn.Linear}, torch.qint8)
    assert type(quantised.spread_query) is not nn.Linear
    x = torch.randn(B, N, D)
    actual, expected = quantised(x, x, x)[0], attention(x, x, x)[0]
    difference = (actual - expected).abs().max()
    # Scores of size about one lose a part in 127 of each of their two factors, and no more.
    assert 0 < difference < 4 / 127 * expected.abs().max()


@pytest.mark.filterwarnings("ignore:Calling register_constant")
def test_torchao_quantises_the_projections(attention):
    """The outputs are those of the module with the weights that the quantised ones stand for."""
    quantization = pytest.importorskip("torchao.quantization")
    quantised = copy.deepcopy(attention)
    quantization.quantize_(quantised, quantization.Int8WeightOnlyConfig())
    with torch.no_grad():
        for name in ("spread_query", "spread_key"):  # out_proj it passes by, as in any attention
            weight = attention.get_submodule(name).weight
            stands_for = quantised.get_submodule(name).weight.dequantize()
            assert 0 < (stands_for - weight).abs().max() < weight.abs().max() / 100  # 127 steps
            weight.copy_(stands_for)
    x = torch.randn(B, N, D)
    close(quantised(x, x, x)[0], attention(x, x, x)[0])


def test_pruned_projections_are_pruned(attention):
    x = torch.randn(B, N, D)
    prune.l1_unstructured(attention.spread_query, "weight", amount=0.5)
    pruned = attention(x, x, x)[0]
    prune.remove(attention.spread_query, "weight")  # the mask becomes the weight's own zeros
    close(attention(x, x, x)[0], pruned)
    assert (attention.spread_query.weight == 0).float().mean() == 0.5


def test_adapters_on_the_projections_by_name(attention):
    peft = pytest.importorskip("peft")
    x = torch.randn(B, N, D)
    model = SelfAttention()
    model.attention = attention
    before = model(x)
    targets = ["spread_query", "spread_key", "out_proj"]
    config = peft.LoraConfig(target_modules=targets, r=2, init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).eval()
    during = adapted(x)
    assert (during - before).abs().max() > 1e-3
    adapted(x).square().sum().backward()
    trained = [p for p in adapted.parameters() if p.requires_grad]
    assert len(trained) == 6 and all(p.grad.abs().max() > 0 for p in trained)
    close(adapted.merge_and_unload()(x), during)


def test_adapters_on_query_key_and_value():
    """PEFT's wrapper of MultiheadAttention, which merges around each call."""
    peft = pytest.importorskip("peft")
    theirs = SelfAttention()
    theirs.attention = nn.MultiheadAttention(D, H, batch_first=True)
    ours = SelfAttention()
    ours.attention = KernelizedAttention(D, H, batch_first=True, activation="identity")
    ours.attention.load_state_dict(theirs.attention.state_dict(), strict=False)
    nn.init.zeros_(ours.attention.spread_query.weight)  # no skewness: the mean is the location
    config = peft.LoraConfig(target_modules=["attention"], r=2, init_lora_weights=False)
    x, outputs = torch.randn(B, N, D), []
    for model in (theirs, ours):
        torch.manual_seed(1)
        adapted = peft.get_peft_model(model, config).eval()
        outputs.append(adapted(x))
        outputs[-1].square().sum().backward()
        assert all(p.grad.abs().max() > 0 for p in adapted.parameters() if p.requires_grad)
    close(outputs[1], outputs[0])


def by_one_call(model: nn.Module) -> None:
    model.reset_parameters()


def children_first(model: nn.Module) -> None:
    model.apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)


def parents_first(model: nn.Module) -> None:
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


def by_the_old_name(model: nn.Module) -> None:
    model.out_proj.reset_parameters()  # as with MultiheadAttention, not its method's task
    model._reset_parameters()


RESETS = (by_one_call, children_first, parents_first, by_the_old_name)


@pytest.mark.parametrize("sizes", [{}, {"kdim": 40, "vdim": 24}])
@pytest.mark.parametrize("reset", RESETS)
def test_a_module_made_on_meta_and_reset_is_as_constructed(reset, sizes):
    """Constants are equal; of 192 random numbers or more the deviation is good to a fifth."""
    options = {"user_dim": 64, "initial_scale": 0.3, "device": "meta", **sizes}
    model = KernelizedAttention(48, 4, **options).to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.constant_(parameter, 7.0)
    reset(model)
    constructed = KernelizedAttention(48, 4, **{**options, "device": "cpu"})
    for name, expected in constructed.named_parameters():
        actual, spread = model.get_parameter(name), expected.std()
        if spread < 1e-6:
            assert torch.equal(actual, expected), name
        else:  # another distribution's deviation would be away by a factor of 1.4
            torch.testing.assert_close(actual.std(), spread, rtol=0.22, atol=0, msg=name)


def test_flops_are_counted(attention):
    x = torch.randn(B, N, D)

    def count(mode: str) -> int:
        with FlopCounterMode(display=False) as counter:
            attention(x, x, x, need_weights=False, mode=mode)[0].sum().backward()
        return sum(
            n for op, n in counter.get_flop_counts()["Global"].items() if "kernelized" in str(op)
        )

    # Scores and values by location alone: two products forward, twice and the scores again back.
    assert count("location") == 2 * B * N * N * D * (2 + 5)
    assert count("location") < count("mean") < count("sample")


def test_repr_says_what_it_is():
    text = repr(KernelizedAttention(D, H, 0.1, kdim=5, batch_first=True, activation="tanh"))
    for part in ("embed_dim=12", "num_heads=2", "dropout=0.1", "kdim=5", "'tanh'", "0.5", "'auto'"):
        assert part in text


FSDP = """
import sys, torch
from torch import nn
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from rka_fast import KernelizedAttention
init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
with torch.device("meta"):
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    layer.self_attn = KernelizedAttention(16, 2, batch_first=True)
attention = layer.self_attn
for part in (attention.spread_query, attention.spread_key, attention.out_proj, layer):
    fully_shard(part, mesh=mesh)
layer.to_empty(device="cpu")
for module in layer.modules():
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()
x = torch.randn(2, 5, 16)
output = layer(x)
output.square().sum().backward()
assert all(p.grad is not None for p in layer.parameters())
plain = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
plain.self_attn = KernelizedAttention(16, 2, batch_first=True)
plain.load_state_dict({name: p.full_tensor() for name, p in layer.state_dict().items()})
with torch.no_grad():
    torch.testing.assert_close(layer.eval()(x), plain.eval()(x))
destroy_process_group()
"""


@pytest.mark.slow  # the resets that it needs are tested above
def test_sharded_from_the_meta_device(tmp_path):
    """FSDP2's flow, every projection a unit of its own, on one process."""
    result = python("-W", "ignore", "-c", FSDP, tmp_path / "store")
    assert result.returncode == 0, result.stderr
