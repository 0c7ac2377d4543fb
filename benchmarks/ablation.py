"""What each part of RKSA is worth: the whole, and with one part changed at a time.

python benchmarks/ablation.py --datasets ml-100k --seeds 3 --data-dir DIR --out DIR

Every variant is a run of `rka_fast.reproduce` in a folder of its own under --out, resumable like
it. The table is printed and kept in --out/ablation.md, anew after every variant.
"""

import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from rka_fast import reproduce
from rka_fast.commands import choose, exit_status, machine
from rka_fast.data.split_rules import SplitName
from rka_fast.errors import DataError
from rka_fast.files import write_atomically
from rka_fast.reproduction.results import Scores
from rka_fast.reproduction.tables import value
from rka_fast.training.config import Config
from rka_fast.training.metrics import METRICS, RANKINGS


@dataclass(frozen=True)
class Variant:
    """title: in the table. settings: what is changed. model: whose cells are run."""

    title: str
    settings: tuple[str, ...] = ()
    model: str = "rksa"


PLAIN = ("activation=identity", "train_mode=location", "eval_mode=location")

VARIANTS = {
    "rksa": Variant("RKSA"),
    "sasrec": Variant("SASRec: neither the attention nor the kernel loss", model="sasrec"),
    "no-term": Variant("without the kernel loss", ("kernel_weight=0",)),
    "plain": Variant("plain attention, with the kernel loss", PLAIN),
    "mean": Variant("mean logits in training", ("train_mode=mean",)),
    "no-counts": Variant(
        "without the co-occurrence kernel (counts shape the skewness still)",
        ("kernels=item,user",),
    ),
    "no-item": Variant("without the item kernel", ("kernels=cooccurrence,user",)),
    "no-user": Variant("without the user kernel", ("kernels=cooccurrence,item",)),
    "own-counts": Variant("counts with the user's own", ("leave_self_out=false",)),
    "weight-0.1": Variant("weight of the kernel loss .1", ("kernel_weight=0.1",)),
    "weight-1": Variant("weight of the kernel loss 1", ("kernel_weight=1",)),
    "weight-2": Variant("weight of the kernel loss 2", ("kernel_weight=2",)),
    "weight-4": Variant("weight of the kernel loss 4", ("kernel_weight=4",)),
    "scale-0.1": Variant("initial scale .1", ("initial_scale=0.1",)),
    "scale-1": Variant("initial scale 1", ("initial_scale=1",)),
    "identity": Variant("identity as activation", ("activation=identity",)),
    "tanh": Variant("tanh as activation", ("activation=tanh",)),
    "one-block": Variant("one block", ("blocks=1",)),
    "three-blocks": Variant("three blocks", ("blocks=3",)),
    "no-dropout": Variant("no dropout", ("dropout=0",)),
    "mean-no-dropout": Variant(
        "mean logits in training, no dropout", ("train_mode=mean", "dropout=0")
    ),
}


@dataclass(frozen=True)
class Flags:
    """The command line."""

    # Data sets of `rka_fast.reproduce`, comma-separated.
    datasets: str | None = None
    # Your own log, in any form that rka-fast train reads.
    data: str | None = None
    # Variants, comma-separated; RKSA itself is always among them.
    only: str = "all"
    # Seeds 0, 1, ... of every variant.
    seeds: int = 3
    # Folder with the files of the data sets.
    data_dir: str = "data"
    # Folder of the runs and of ablation.md.
    out: str = "runs/ablation"
    # Hold out every user's last two events, or what came after two points in time.
    split: SplitName = "leave-one-out"
    # At most this many epochs.
    epochs: int | None = None
    # A setting of rka-fast train for all variants that do not change it; may be repeated.
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()


def scores(flags: Flags, name: str, command: str) -> dict[str, Scores]:
    """Of one variant, by the title of the data set; those whose every cell failed are left out."""
    variant = VARIANTS[name]
    unread = Config.unread(variant.model)
    common = [s for s in flags.set if s.partition("=")[0].strip().replace("-", "_") not in unread]
    cells = reproduce.Flags(
        datasets=flags.datasets,
        models=variant.model,
        seeds=flags.seeds,
        data_dir=flags.data_dir,
        data=flags.data,
        out=str(Path(flags.out) / name),
        split=flags.split,
        epochs=flags.epochs,
        set=(*common, *(f"{variant.model}.{setting}" for setting in variant.settings)),
    )
    if not (outcomes := reproduce.reproduce(cells, command).outcomes):
        raise DataError("no data set could be run")
    return {o.dataset.title: o.scores[variant.model] for o in outcomes if o.scores}


def table(found: dict[str, Scores]) -> list[str]:
    """Lines of Markdown: each variant's scores, and how far it is from the first."""
    whole = next(iter(found.values()))
    of_ranking = [*(METRICS[m].title for m in ("hit@10", "ndcg@10")), "to RKSA", "p"]
    header = ["", *of_ranking, *(f"full {name}" for name in of_ranking), "best epoch", "seeds"]
    rows = [header, ["---"] + ["--:"] * (len(header) - 1)]
    for name, variant in found.items():
        row = [VARIANTS[name].title]
        for ranking in RANKINGS:
            row += [value(variant, ranking, metric) for metric in ("hit@10", "ndcg@10")]
            if variant is whole:
                row += ["", ""]
            else:
                distance = variant.compared_with(whole, ranking)
                row += [f"{distance.difference:+.4f}", f"{distance.p:.1g}"]
        epochs = [result["best_epoch"] for result in variant.results.values()]
        rows.append([*row, f"{statistics.fmean(epochs):.0f}", str(len(epochs))])
    return ["| " + " | ".join(row) + " |" for row in rows]


def report(found: dict[str, dict[str, Scores]], command: str) -> str:
    """The whole Markdown. found: by variant, then by data set."""
    lines = [
        "# What each part of RKSA is worth",
        "",
        f"- command: `{command}`",
        f"- machine: {machine()}",
        "- test scores of the epoch with the best validation NDCG@10: means ± deviation over the "
        "seeds; differences in NDCG@10 and p paired over the test users",
    ]
    for title in found["rksa"]:
        parts = {
            name: of_variant[title] for name, of_variant in found.items() if title in of_variant
        }
        lines += ["", f"## {title}", "", *table(parts)]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0; 2 for a user's mistake; 130 if stopped."""
    given = list(sys.argv[1:] if argv is None else argv)
    command = shlex.join(["python", "benchmarks/ablation.py", *given])
    flags = tyro.cli(Flags, args=given, description=__doc__)

    def run() -> int:
        found: dict[str, dict[str, Scores]] = {}
        for name in dict.fromkeys(["rksa", *choose(flags.only, VARIANTS, "variant")]):
            found[name] = scores(flags, name, command)
            write_atomically(Path(flags.out) / "ablation.md", report(found, command))
        print((Path(flags.out) / "ablation.md").read_text(encoding="utf-8"))
        return 0

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
