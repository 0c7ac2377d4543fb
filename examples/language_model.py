"""A small character model of English prose, with plain attention and with ours.

    python examples/language_model.py

The text is the documentation that comes with Python's `pydoc`. Training draws the attention's
logits; evaluation takes their exact mean; draws tell how sure the next character is.
"""

import argparse
import math
from pydoc_data import topics

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rka_fast import predict, swap_attention

WIDTH, HEADS, LAYERS, LENGTH = 64, 4, 2, 96


class LanguageModel(nn.Module):
    """Characters through a causal encoder to the next character."""

    def __init__(self, characters: int):
        super().__init__()
        self.embed = nn.Embedding(characters, WIDTH)
        self.positions = nn.Embedding(LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, 0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, characters)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        x = self.embed(tokens) + self.positions.weight[:length]
        mask = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        return self.head(self.encoder(x, mask, is_causal=True))


def text() -> tuple[Tensor, Tensor, str]:
    """Tokens to train on, tokens held out, and the alphabet."""
    prose = "".join(topics.topics.values())
    alphabet = "".join(sorted(set(prose)))
    tokens = torch.tensor([alphabet.index(c) for c in prose[:300_000]])
    cut = len(tokens) * 9 // 10
    return tokens[:cut], tokens[cut:], alphabet


def batch(tokens: Tensor, size: int) -> tuple[Tensor, Tensor]:
    starts = torch.randint(len(tokens) - LENGTH - 1, (size,))
    windows = torch.stack([tokens[i : i + LENGTH + 1] for i in starts])
    return windows[:, :-1], windows[:, 1:]


def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


def train(tokens: Tensor, characters: int, steps: int, ours: bool) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(characters)
    if ours:  # from scratch
        swap_attention(model, start="rksa", activation="identity")
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(model, *batch(tokens, 16)).backward()
        optimiser.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def bits(model: LanguageModel, tokens: Tensor, batches: int = 8) -> float:
    """Bits a character on held-out text, the same windows for every model."""
    torch.manual_seed(1)
    found = [loss(model, *batch(tokens, 32)).item() for _ in range(batches)]
    return sum(found) / batches / math.log(2)


@torch.no_grad()
def write(model: LanguageModel, alphabet: str, start: str, length: int) -> str:
    for _ in range(length):
        window = start[-LENGTH:]
        tokens = torch.tensor([[alphabet.index(c) for c in window]])
        start += alphabet[model(tokens)[0, -1].argmax()]
    return start


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args(arguments)
    training, held_out, alphabet = text()
    result = {}
    for name in ("plain", "ours"):
        model = train(training, len(alphabet), options.steps, ours=name == "ours")
        result[name] = bits(model, held_out)
        print(f"{name}: {result[name]:.3f} bits a character")
    print(repr(write(model, alphabet, "The following ", 60)))
    window = held_out[None, :LENGTH]
    found = predict(model, window, draws=16, output=lambda y: y[:, -1].softmax(-1))
    likely = found.mean[0].topk(3)
    for p, i in zip(*likely, strict=True):
        print(f"next {alphabet[i]!r}: {p:.3f} +- {found.std[0, i]:.3f} over 16 draws")
    return result


if __name__ == "__main__":
    main()
