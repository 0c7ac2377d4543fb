"""Models of Hugging Face Transformers with our attention, on small random configurations."""

import copy
import json

import pytest
import torch
from support.processes import python

from rka_fast import use_draws, use_relations

transformers = pytest.importorskip("transformers")
from rka_fast.integrations.transformers import (  # noqa: E402
    NAME,
    HeadSpread,
    _is_cross,
    add_attention,
    from_pretrained,
)

transformers.logging.set_verbosity_error()
B, N = 2, 7
SMALL = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
KINDS = {
    "bert": ("BertForMaskedLM", {**SMALL, "vocab_size": 50, "intermediate_size": 64}),
    "gpt2": ("GPT2LMHeadModel", {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "llama": (
        "LlamaForCausalLM",
        {**SMALL, "vocab_size": 50, "intermediate_size": 64, "num_key_value_heads": 2},
    ),
    "vit": (
        "ViTForImageClassification",
        {**SMALL, "intermediate_size": 64, "image_size": 16, "patch_size": 8, "num_labels": 3},
    ),
}
DECODERS = ["gpt2", "llama"]


def build(kind: str, **options):
    name, sizes = KINDS[kind]
    sizes = {**sizes, **options}
    model_class = getattr(transformers, name)
    return model_class(model_class.config_class(**sizes)).eval()


def inputs(kind: str) -> dict[str, torch.Tensor]:
    if kind == "vit":
        return {"pixel_values": torch.randn(B, 3, 16, 16)}
    mask = torch.ones(B, N, dtype=torch.long)
    mask[0, :2] = 0
    return {"input_ids": torch.randint(1, 50, (B, N)), "attention_mask": mask}


def logits(model, x: dict[str, torch.Tensor]) -> torch.Tensor:
    """Those of tokens that are no padding."""
    output = model(**x).logits
    return output[x["attention_mask"].bool()] if "attention_mask" in x else output


@pytest.mark.parametrize("kind", KINDS)
def test_the_trained_function_is_kept_and_draws_move_it(kind):
    model = build(kind, attn_implementation="eager")
    original, x = copy.deepcopy(model), inputs(kind)
    assert add_attention(model) is model and model.config._attn_implementation == NAME
    with torch.no_grad():
        expected = logits(original, x)
        torch.testing.assert_close(logits(model, x), expected, rtol=1e-5, atol=1e-6)
        with use_draws(model):
            assert (logits(model, x) - expected).abs().max() > 1e-6
    logits(model.train(), x).square().sum().backward()
    spreads = [m for m in model.modules() if isinstance(m, HeadSpread)]
    assert len(spreads) == 2 and all(m.query.weight.grad.abs().max() > 0 for m in spreads)


AUTO = {
    "bert": "AutoModelForMaskedLM",
    "gpt2": "AutoModelForCausalLM",
    "llama": "AutoModelForCausalLM",
    "vit": "AutoModelForImageClassification",
}


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded(kind, tmp_path):
    model = add_attention(build(kind), start="rksa", initial_scale=0.3)
    model.save_pretrained(tmp_path)
    loaded = from_pretrained(getattr(transformers, AUTO[kind]), tmp_path).eval()
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys() and any(NAME in name for name in state)
    x = inputs(kind)
    with torch.no_grad():
        assert torch.equal(logits(loaded, x), logits(model, x))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_in_a_fresh_process(kind, tmp_path):
    model = add_attention(build(kind), start="rksa", initial_scale=0.3)
    x = inputs(kind)
    model.save_pretrained(tmp_path / "model")
    with torch.no_grad():
        torch.save((model.state_dict(), x, logits(model, x)), tmp_path / "kept.pt")
    code = f"""
import sys, torch, transformers
from rka_fast.integrations.transformers import from_pretrained
model = from_pretrained(transformers.{AUTO[kind]}, sys.argv[1]).eval()
state, x, expected = torch.load(sys.argv[2])
loaded = model.state_dict()
assert loaded.keys() == state.keys() and any("{NAME}" in name for name in state)
assert all(torch.equal(loaded[name], state[name]) for name in state)
with torch.no_grad():
    output = model(**x).logits
output = output[x["attention_mask"].bool()] if "attention_mask" in x else output
assert torch.equal(output, expected)
assert type(model) is transformers.{KINDS[kind][0]}
"""
    result = python("-c", code, tmp_path / "model", tmp_path / "kept.pt")
    assert result.returncode == 0, result.stderr
    saved = json.loads((tmp_path / "model" / "config.json").read_text())
    assert saved["rka_fast"]["initial_scale"] == 0.3
    assert saved["architectures"] == [KINDS[kind][0]]


@pytest.mark.parametrize("kind", DECODERS)
def test_generation_with_a_cache_is_that_without(kind):
    model = add_attention(build(kind), start="rksa")
    x = inputs(kind)
    options = {
        "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None,
        "return_dict_in_generate": True, "output_logits": True,
    }  # fmt: skip
    results = [model.generate(**x, use_cache=cached, **options) for cached in (True, False)]
    assert torch.equal(results[0].sequences, results[1].sequences)
    for cached, whole in zip(results[0].logits, results[1].logits, strict=True):
        torch.testing.assert_close(cached, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", DECODERS)
def test_no_token_sees_its_future(kind):
    model = add_attention(build(kind), start="rksa")
    ids = torch.randint(1, 50, (B, N))
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 50
    with torch.no_grad():
        before, after = (model(input_ids=x).logits for x in (ids, changed))
    torch.testing.assert_close(before[:, :-1], after[:, :-1], rtol=0, atol=1e-6)
    assert (before[:, -1] - after[:, -1]).abs().max() > 1e-4


T5 = {"d_model": 16, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8,
        "decoder_ffn_dim": 8, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "max_position_embeddings": 32, "bos_token_id": 1}  # fmt: skip
IDS = {"vocab_size": 50, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
TWO_SEQUENCES = {
    "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**T5, **IDS)),
    "bart": lambda: transformers.BartForConditionalGeneration(
        transformers.BartConfig(**BART, **IDS)
    ),
}


def test_attentions_to_another_sequence_are_told_by_their_own_names():
    for name in (
        "bert.encoder.layer.0.crossattention.self",
        "decoder.block.0.layer.1.EncDecAttention",
        "model.decoder.layers.1.encoder_attn",
    ):
        assert _is_cross(name), name
    for name in ("cross_modal_text_layers.0.attention.self", "decoder.layers.1.self_attn"):
        assert not _is_cross(name), name


@pytest.mark.parametrize("kind", TWO_SEQUENCES)
def test_encoders_with_decoders(kind):
    """Self-attention and cross-attention, T5's with learned biases of distances."""
    model = TWO_SEQUENCES[kind]().eval()
    for module in model.modules():
        if hasattr(module, "relative_attention_bias"):
            torch.nn.init.normal_(module.relative_attention_bias.weight)
    original, x = copy.deepcopy(model), inputs("bert")
    x = {"input_ids": x["input_ids"], "attention_mask": x["attention_mask"].flip(1)}
    x["decoder_input_ids"] = torch.randint(1, 50, (B, 5))
    add_attention(model)
    assert [m.cross for m in model.modules() if isinstance(m, HeadSpread)] == [False, False, True]
    with torch.no_grad():
        expected = original(**x).logits
        torch.testing.assert_close(model(**x).logits, expected, rtol=1e-5, atol=1e-5)
        with use_draws(model):
            assert (model(**x).logits - expected).abs().max() > 1e-5
        counts = torch.eye(N).expand(B, N, N)
        with use_relations(model, cooccurrence=counts):  # noqa: SIM117
            with pytest.raises(ValueError, match="expected self-attention.*model.encoder"):
                model(**{**x, "decoder_input_ids": x["input_ids"]})
        with use_relations(model.get_encoder(), cooccurrence=counts):
            assert model(**x).logits.isfinite().all()
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "num_beams": 2}
    del x["decoder_input_ids"]
    found = [model.generate(**x, use_cache=cached, **options) for cached in (True, False)]
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_decoders_that_look_at_another_sequence(kind):
    options = {"add_cross_attention": True, "attn_implementation": "eager", "is_decoder": True}
    model = build(kind, **options)
    original, x = copy.deepcopy(model), inputs(kind)
    x["encoder_hidden_states"] = torch.randn(B, 4, 32)
    add_attention(model)
    with torch.no_grad():
        expected = logits(original, x)
        torch.testing.assert_close(logits(model, x), expected, rtol=1e-5, atol=1e-5)


def test_heads_of_two_widths_are_refused():
    model = add_attention(build("llama"))
    model.model.layers[0].self_attn.get_submodule(NAME).query = torch.nn.Linear(5, 10)
    with pytest.raises(ValueError, match="LlamaAttention: expected heads of width 5.*got 8"):
        model(**inputs("llama"))


def test_relations_reach_it():
    model = add_attention(build("llama"), start="rksa", user_dim=3)
    x = inputs("llama")
    incidence = torch.randint(0, 2, (B, N, 6)).float()
    counts, user = incidence @ incidence.mT, torch.randn(B, 3)
    with torch.no_grad():
        plain = logits(model, x)
        with use_relations(model, cooccurrence=counts):
            related = logits(model, x)
        with use_relations(model, user=user):
            personal = logits(model, x)
    assert not torch.allclose(plain, related) and not torch.allclose(plain, personal)


def test_a_second_call_changes_nothing():
    model = add_attention(build("gpt2"), start="rksa", backend="reference")
    settings, before = dict(model.config.rka_fast), list(model.modules())
    assert add_attention(model, activation="tanh") is model
    assert model.config.rka_fast == settings and list(model.modules()) == before


def test_errors(tmp_path):
    plain = build("gpt2", attn_implementation=NAME)
    with pytest.raises(ValueError, match=r"add_attention\(model\)"):
        plain(**inputs("gpt2"))
    plain.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="without.*add_attention"):
        from_pretrained(transformers.GPT2LMHeadModel, str(tmp_path))
    with pytest.raises(ValueError, match="start: expected"):
        add_attention(build("bert"), start="new")
    with pytest.raises(ValueError, match="FalconModel has no attention"):
        add_attention(transformers.FalconModel(transformers.FalconConfig(**SMALL, vocab_size=50)))
    with pytest.raises(TypeError, match="path: expected a folder's name or path, got NoneType"):
        from_pretrained(transformers.GPT2LMHeadModel, None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="auto_class: expected a class of Transformers, got str"):
        from_pretrained("gpt2", str(tmp_path))
    with pytest.raises(TypeError, match="model: expected a model of Transformers, got NoneType"):
        add_attention(None)  # pyright: ignore[reportArgumentType]
    linear = torch.nn.Linear(2, 2)
    with pytest.raises(
        TypeError, match="model: expected a model of Tr.*got Linear.*swap_attention"
    ):
        add_attention(linear)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="backend: expected one of auto.*'cppp'"):
        add_attention(build("bert"), backend="cppp")
    with pytest.raises(TypeError, match="initial_scale: expected a positive number, got str"):
        add_attention(build("bert"), initial_scale=".1")  # pyright: ignore[reportArgumentType]
