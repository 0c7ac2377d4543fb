"""A small ViT on scikit-learn's digits: what draws of the attention tell, beside the usual means.

    python examples/digits.py

Trains plain attention, the same with dropout kept on (MC dropout), an ensemble of 5, and ours put
in by `swap_attention`; then asks for accuracy, negative log-likelihood, calibration error, and how
well each notices digits that are shifted by two pixels, which none has seen. Needs scikit-learn.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from rka_fast import predict, swap_attention

PATCH, WIDTH, HEADS, CLASSES = 2, 32, 4, 10
TOKENS = (8 // PATCH) ** 2


class Vit(nn.Module):
    """Patches of 2 x 2 pixels through two encoder layers to ten classes."""

    def __init__(self, dropout: float):
        super().__init__()
        self.patches = nn.Linear(PATCH * PATCH, WIDTH)
        self.positions = nn.Parameter(0.02 * torch.randn(TOKENS, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 2 * WIDTH, dropout, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        patches = images.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).flatten(1, 2).flatten(2)
        hidden = self.encoder(self.patches(patches) + self.positions)
        return self.head(hidden.mean(1))


def data(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images in 0 .. 1 and labels, for training and for testing."""
    digits = load_digits()
    parts = train_test_split(
        digits.images / 16, digits.target, test_size=0.5, random_state=seed, stratify=digits.target
    )
    x, x_test, y, y_test = parts
    return (
        torch.tensor(x).float(), torch.tensor(y), torch.tensor(x_test).float(), torch.tensor(y_test)
    )  # fmt: skip


def train(seed: int, x: Tensor, y: Tensor, epochs: int, ours: bool, dropout: float = 0.1) -> Vit:
    torch.manual_seed(seed)
    model = Vit(dropout)
    if ours:  # from scratch
        swap_attention(model, start="rksa", activation="identity")
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.01)
    steps = epochs * -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def plain(model: Vit, x: Tensor) -> Tensor:
    """Probabilities (1, images, classes)."""
    return model(x).softmax(-1)[None]


@torch.no_grad()
def with_dropout(model: Vit, x: Tensor, draws: int) -> Tensor:
    """Probabilities (draws, images, classes) with dropout on."""
    model.train()
    probabilities = torch.stack([model(x).softmax(-1) for _ in range(draws)])
    model.eval()
    return probabilities


def with_draws(model: Vit, x: Tensor, draws: int) -> Tensor:
    """Probabilities (draws, images, classes), the attention's logits drawn."""
    found = predict(
        model, x, draws=draws, output=lambda logits: logits.softmax(-1), return_draws=True
    )
    return found.draws


def calibration_error(p: Tensor, y: Tensor, bins: int = 10) -> float:
    """The gap of confidence and accuracy, over bins of confidence, weighted by their images."""
    confidence, answer = p.max(-1)
    index = (confidence * bins).long().clamp_max(bins - 1)
    gaps = [
        (confidence[index == b].mean() - (answer == y)[index == b].float().mean()).abs()
        * (index == b).float().mean()
        for b in index.unique()
    ]
    return torch.stack(gaps).sum().item()


def notices(score: Tensor, score_shifted: Tensor) -> float:
    """Area under the ROC curve of telling shifted images by the score; 1/2 is guessing."""
    label = torch.cat((torch.zeros(len(score)), torch.ones(len(score_shifted))))
    return float(roc_auc_score(label, torch.cat((score, score_shifted))))


def entropy(draws: Tensor) -> Tensor:
    p = draws.mean(0)
    return torch.special.entr(p).sum(-1)


def spread(draws: Tensor) -> Tensor:
    """What of the entropy comes from the draws differing (the mutual information)."""
    return entropy(draws) - torch.special.entr(draws).sum(-1).mean(0)


def evaluate(probabilities: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> dict[str, float]:
    clean, shifted = probabilities(x), probabilities(x.roll(2, dims=2))
    p = clean.mean(0)
    row = {
        "accuracy": (p.argmax(-1) == y).float().mean().item(),
        "NLL": F.nll_loss(p.clamp_min(1e-12).log(), y).item(),
        "ECE": calibration_error(p, y),
        "shift by entropy": notices(entropy(clean), entropy(shifted)),
        "shift by spread": float("nan"),
    }
    if len(clean) > 1:
        row["shift by spread"] = notices(spread(clean), spread(shifted))
    return row


def one_seed(seed: int, epochs: int, members: int, draws: int) -> dict[str, dict[str, float]]:
    x, y, x_test, y_test = data(seed)
    ensemble = [train(100 * seed + i, x, y, epochs, ours=False) for i in range(members)]
    ours = train(100 * seed, x, y, epochs, ours=True)
    ways = {
        "plain attention": lambda z: plain(ensemble[0], z),
        f"MC dropout, {draws} draws": lambda z: with_dropout(ensemble[0], z, draws),
        f"ensemble of {members}": lambda z: torch.cat([plain(m, z) for m in ensemble]),
        "ours, mean": lambda z: plain(ours, z),
        f"ours, {draws} draws": lambda z: with_draws(ours, z, draws),
    }
    return {name: evaluate(way, x_test, y_test) for name, way in ways.items()}


def table(results: list[dict[str, dict[str, float]]]) -> str:
    """Mean and standard deviation over the seeds, in Markdown."""
    columns = list(next(iter(results[0].values())))
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    for name in results[0]:
        cells = []
        for column in columns:
            values = torch.tensor([result[name][column] for result in results])
            deviation = f" ± {values.std():.3f}" if len(values) > 1 else ""
            cells.append("" if values.isnan().any() else f"{values.mean():.3f}{deviation}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--members", type=int, default=5, help="of the ensemble")
    parser.add_argument("--draws", type=int, default=16)
    options = parser.parse_args(arguments)
    results = [
        one_seed(seed, options.epochs, options.members, options.draws)
        for seed in range(options.seeds)
    ]
    text = table(results)
    print(text)
    return text


if __name__ == "__main__":
    main()
