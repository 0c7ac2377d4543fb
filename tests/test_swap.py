"""One line puts our attention into a model, and the trained function stays."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from rka_fast import KernelizedAttention
from rka_fast.context import use_draws
from rka_fast.swap import swap_attention

B, N, D, H = 3, 7, 16, 4


def transformer(**options) -> nn.Module:
    return nn.Transformer(D, H, 2, 2, 32, 0.0, batch_first=True, **options).eval()


def vision_transformer(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A small ViT with random weights and images for it."""
    if name == "torchvision":
        torchvision = pytest.importorskip("torchvision")
        model = torchvision.models.VisionTransformer(16, 8, 2, 4, 32, 64, num_classes=5)
        nn.init.normal_(model.heads.head.weight)  # it starts at zero
    else:
        timm = pytest.importorskip("timm")
        model = timm.create_model(
            "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=4,
            num_classes=5,
        )  # fmt: skip
    return model.eval(), torch.randn(2, 3, 16, 16)


def ours(model: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in model.named_modules() if isinstance(m, KernelizedAttention)}


def test_every_attention_of_a_transformer_is_replaced_and_its_function_kept():
    model = transformer()
    original = copy.deepcopy(model)
    names = swap_attention(model)
    assert names == list(ours(model)) and len(names) == 2 + 2 * 2
    source, target = torch.randn(B, N, D), torch.randn(B, 5, D)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    with torch.no_grad():
        actual = model(source, target, tgt_mask=mask, tgt_is_causal=True)
        expected = original(source, target, tgt_mask=mask, tgt_is_causal=True)
        assert (actual - expected).abs().max() < 1e-5  # rounding
        with use_draws(model):  # and it does draw
            assert (model(source, target) - original(source, target)).abs().max() > 1e-3
    assert swap_attention(model) == []


@pytest.mark.parametrize("name", ["torchvision", "timm"])
def test_vision_transformers(name):
    model, images = vision_transformer(name)
    original = copy.deepcopy(model)
    assert len(swap_attention(model)) == len(ours(model)) == 2
    with torch.no_grad():
        assert (model(images) - original(images)).abs().max() < 1e-5
        with use_draws(model):
            assert (model(images) - original(images)).abs().max() > 1e-4
    model.train()(images).square().sum().backward()
    for module in ours(model).values():
        assert module.spread_query.weight.grad.abs().max() > 0
        assert module.in_proj_weight.grad.abs().max() > 0


@pytest.mark.parametrize("masks", ["boolean", "additive", "causal"])
def test_masks_of_timm(masks):
    timm = pytest.importorskip("timm")
    model = nn.Sequential(timm.layers.Attention(D, H, qkv_bias=False, norm_layer=nn.LayerNorm))
    original = copy.deepcopy(model).eval()
    assert swap_attention(model.eval()) == ["0"]
    assert model[0].in_proj_bias is None
    x, seen = torch.randn(B, N, D), torch.rand(B, 1, N, N) > 0.4
    seen = seen | torch.eye(N, dtype=torch.bool)
    options = {
        "boolean": {"attn_mask": seen},
        "additive": {"attn_mask": torch.randn(N, N)},
        "causal": {"is_causal": True},
    }[masks]
    with torch.no_grad():
        torch.testing.assert_close(
            model[0](x, **options), original[0](x, **options), rtol=1e-5, atol=1e-6
        )


def test_parameters_move_as_they_are():
    model = transformer().double().train()
    model.encoder.layers[0].self_attn.in_proj_weight.requires_grad_(False)
    before = dict(model.named_parameters())
    swap_attention(model)
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    assert {p.dtype for p in after.values()} == {torch.float64}
    assert all(m.training for m in model.modules())


def test_one_that_is_used_twice_stays_one():
    attention = nn.MultiheadAttention(D, H)
    model = nn.ModuleDict({"a": attention, "b": attention})
    assert swap_attention(model) == ["a", "b"]
    assert model["a"] is model["b"] and isinstance(model["a"], KernelizedAttention)


def test_a_filter_and_other_settings():
    model = transformer()
    names = swap_attention(
        model, filter_fn=lambda name, module: "encoder" in name, start="rksa", user_dim=3,
        backend="reference", initial_scale=0.2,
    )  # fmt: skip
    assert names == [f"encoder.layers.{i}.self_attn" for i in range(2)]
    module = model.encoder.layers[0].self_attn
    assert (module.activation, module.backend, module.kernels.user_dim) == (
        "leaky_relu", "reference", 3,
    )  # fmt: skip
    torch.testing.assert_close(nn.functional.softplus(module.scale_bias), torch.full((H,), 0.2))
    assert module.spread_query.weight.abs().max() > 0


def test_a_subclass_with_a_forward_of_its_own_is_left_alone():
    class Own(nn.MultiheadAttention):
        def forward(self, *inputs, **options):
            return None

    model = nn.ModuleList([Own(D, H)])
    assert swap_attention(model) == [] and type(model[0]) is Own


def test_the_new_parameters_learn_from_where_they_start():
    """Zeros are no dead end: every new parameter has a gradient, at once or after a step."""
    layer = nn.TransformerEncoderLayer(D, H, 32, 0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    swap_attention(model)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.randn(B, N, D)
    for _ in range(2):
        optimiser.zero_grad()
        model(x).square().mean().backward()
        optimiser.step()
    for module in ours(model).values():
        for name in ("spread_query.weight", "spread_key.weight", "scale_bias"):
            assert module.get_parameter(name).grad.abs().max() > 0, name


def test_errors_name_the_attention_and_leave_the_model():
    model = nn.ModuleList(
        [nn.MultiheadAttention(D, H), nn.MultiheadAttention(D, H, add_bias_kv=True)]
    )
    with pytest.raises(ValueError, match="^1: add_bias_kv.*filter_fn"):
        swap_attention(model)
    assert not ours(model)
    with pytest.raises(ValueError, match="start: expected one of trained, rksa, got 'trainde'"):
        swap_attention(model, start="trainde")
    with pytest.raises(ValueError, match="got MultiheadAttention itself.*ModuleList"):
        swap_attention(model[0])
    around = nn.ModuleList([model[0]])  # as the message says
    assert swap_attention(around) == ["0"] and isinstance(around[0], KernelizedAttention)


def on_itself(attention: nn.Module) -> nn.Module:
    attention.register_forward_hook(lambda *_: None)
    return attention


def pruned(attention: nn.Module) -> nn.Module:
    return prune.l1_unstructured(attention, "in_proj_weight", 0.5)


def parametrised(attention: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(attention, "in_proj_weight", nn.Tanh())


def before_its_backward(attention: nn.Module) -> nn.Module:
    attention.register_full_backward_pre_hook(lambda module, grad: None)
    return attention


@pytest.mark.parametrize("change", [on_itself, before_its_backward, pruned, parametrised])
def test_what_was_put_on_an_attention_does_not_get_lost(change):
    model = nn.ModuleList([change(nn.MultiheadAttention(D, H))])
    with pytest.raises(ValueError, match="^0: expected an attention without hooks, prunings"):
        swap_attention(model)
    assert not ours(model)


def test_changes_of_timms_projections_do_not_get_lost():
    timm = pytest.importorskip("timm")
    model = nn.ModuleList([timm.layers.Attention(D, H)])
    prune.l1_unstructured(model[0].qkv, "weight", 0.5)
    with pytest.raises(ValueError, match="^0: expected an attention without hooks, prunings"):
        swap_attention(model)
    model = nn.ModuleList([timm.layers.Attention(D, H)])
    model[0].qkv = nn.Sequential(nn.Linear(D, 3 * D))
    model[0].qkv.in_features = D
    with pytest.raises(ValueError, match="^0: expected qkv to be an nn.Linear.*Sequential"):
        swap_attention(model)


def test_one_that_is_compiled_by_itself_is_refused():
    """It would go on calling what it has compiled; a compiled model is none the worse."""
    layer = nn.TransformerEncoderLayer(D, H, 32, batch_first=True)
    compiled = torch.compile(layer, backend="eager")
    assert swap_attention(compiled) == ["_orig_mod.self_attn"]
    model = nn.ModuleList([torch.compile(nn.MultiheadAttention(D, H), backend="eager")])
    with pytest.raises(ValueError, match="^0._orig_mod: expected an attention that is not comp"):
        swap_attention(model)


def test_timms_attention_itself_is_told():
    timm = pytest.importorskip("timm")
    with pytest.raises(ValueError, match="got Attention itself.*ModuleList"):
        swap_attention(timm.layers.Attention(D, H))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": None}, TypeError, "model: expected a torch.nn.Module, got NoneType"),
        ({"filter_fn": ["0"]}, TypeError, "filter_fn: expected a function.*got list"),
        ({"initial_scale": "0.1"}, TypeError, "initial_scale: expected a positive number, got str"),
        ({"initial_scale": math.inf}, ValueError, "initial_scale: expected a positive.*got inf"),
        ({"user_dim": 4.0}, TypeError, "user_dim: expected an int or None, got float"),
        ({"user_dim": 0}, ValueError, "user_dim: expected 1 or more, got 0"),
        ({"backend": "cppp"}, ValueError, "backend: expected one of auto, cpp.*got 'cppp'"),
        ({"start": 1}, ValueError, "start: expected one of trained, rksa, got 1"),
    ],
)
def test_wrong_options_are_named(options, error, message):
    model = nn.ModuleList([nn.MultiheadAttention(D, H)])
    with pytest.raises(error, match=message):
        swap_attention(**{"model": model, **options})
    assert not ours(model)
