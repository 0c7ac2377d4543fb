"""A Hugging Face model with our attention: trained a little, saved, loaded, asked for its spread.

    python examples/huggingface.py

GPT-2 of a tiny random configuration learns to continue sequences that count up in steps; put your
own model in its place. Needs transformers.
"""

import argparse
import tempfile

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from rka_fast import predict
from rka_fast.integrations.transformers import add_attention, from_pretrained

VOCABULARY, LENGTH = 32, 12


def sequences(batch: int) -> torch.Tensor:
    """Counting up from a random start in steps of 1 to 3, modulo the vocabulary."""
    start = torch.randint(VOCABULARY, (batch, 1))
    step = torch.randint(1, 4, (batch, 1))
    return (start + step * torch.arange(LENGTH)) % VOCABULARY


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=32, n_embd=32, n_layer=2, n_head=4, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    add_attention(model, start="rksa", activation="identity")  # from scratch; for a trained
    # model leave both out: it then starts as what it was
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(options.steps):
        ids = sequences(64)
        loss = model(input_ids=ids, labels=ids).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = from_pretrained(AutoModelForCausalLM, folder).eval()
    torch.manual_seed(1)
    ids = sequences(64)
    asked, expected = ids[:, :8], ids[:, 8:]
    answer = loaded.generate(
        input_ids=asked, attention_mask=torch.ones_like(asked), max_new_tokens=4, do_sample=False,
        pad_token_id=0,
    )  # fmt: skip
    right = (answer[:, 8:] == expected).float().mean().item()
    found = predict(loaded, input_ids=asked, output=lambda o: o.logits[:, -1].softmax(-1))
    top = found.mean.argmax(-1, keepdim=True)
    spread = found.std.gather(1, top).mean().item()
    print(f"loss {loss.item():.3f}, continued rightly {right:.1%}, spread {spread:.3f}")
    return {"loss": loss.item(), "right": right, "spread": spread}


if __name__ == "__main__":
    main()
