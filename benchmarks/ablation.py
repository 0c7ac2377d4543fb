"""What each part of RKSA is worth: the whole, and with one part changed at a time.

python benchmarks/ablation.py --datasets ml-100k --seeds 3 --data-dir DIR --out DIR

Every variant is a run of `rka_fast.reproduce` under --out, resumable like it. The table goes to
standard output and to --out/ablation.md.
"""

import shlex
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from rka_fast.reproduce import Arguments, machine, reproduce
from rka_fast.reproduction.outcome import Scores
from rka_fast.reproduction.significance import compare
from rka_fast.reproduction.tables import number
from rka_fast.training.metrics import RANKINGS

PLAIN = ("activation=identity", "train_mode=location", "eval_mode=location")

# The settings that are changed. SASRec, another model, is attention and loss without all parts.
VARIANTS: dict[str, tuple[str, ...]] = {
    "RKSA": (),
    "SASRec": (),
    "without the kernel term": ("kernel_weight=0",),
    "plain attention, with the kernel term": PLAIN,
    "mean logits in training": ("train_mode=mean",),
    "one draw in evaluation": ("eval_mode=sample",),
    "weight of the term .1": ("kernel_weight=0.1",),
    "weight of the term 2": ("kernel_weight=2",),
    "without the co-occurrence kernel": ("relations=item,user",),
    "without the item kernel": ("relations=cooccurrence,user",),
    "without the user kernel": ("relations=cooccurrence,item",),
    "counts with the user's own": ("leave_self_out=false",),
    "initial scale .1": ("initial_scale=0.1",),
    "initial scale 1": ("initial_scale=1",),
    "identity as activation": ("activation=identity",),
    "tanh as activation": ("activation=tanh",),
    "one block": ("blocks=1",),
    "three blocks": ("blocks=3",),
    "no dropout": ("dropout=0",),
}


@dataclass(frozen=True)
class Options:
    """The command line."""

    # Data sets of `rka_fast.reproduce`, comma-separated.
    datasets: str = "ml-100k"
    # Seeds 0, 1, ... of every variant.
    seeds: int = 3
    # Folder with the files of the data sets.
    data_dir: str = "data"
    # Folder of the runs and of ablation.md.
    out: str = "runs/ablation"
    # Part of the names of the variants to run, comma-separated; all by default.
    only: str = ""
    # A setting of rka_fast.train for all variants; may be repeated.
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()


def scores(options: Options, name: str) -> dict[str, Scores]:
    """Of one variant, by data set."""
    folder = Path(options.out) / "".join(c if c.isalnum() else "-" for c in name.lower())
    model = "sasrec" if name == "SASRec" else "rksa"
    arguments = Arguments(
        datasets=options.datasets,
        models=model,
        seeds=options.seeds,
        data_dir=options.data_dir,
        out=str(folder),
        set=(*options.set, *VARIANTS[name]),
    )
    study = reproduce(arguments, command="")
    return {outcome.dataset.title: outcome.models[model] for outcome in study.outcomes}


def table(found: dict[str, Scores]) -> list[str]:
    """Lines of Markdown: means and deviations of each variant and how far it is from the first."""
    whole = next(iter(found.values()))
    header = ["", "Hit@10", "NDCG@10", "to RKSA", "p", "full Hit@10", "full NDCG@10"]
    rows = [[*header, "to RKSA", "p", "best epoch"], ["---"] + ["--:"] * 9]
    for name, variant in found.items():
        row = [name]
        for kind in RANKINGS:
            row += [
                f"{number(variant.mean(kind, m))} ± {number(variant.deviation(kind, m) or 0)}"
                for m in ("hit@10", "ndcg@10")
            ]
            row += difference(variant, whole, kind) if variant is not whole else ["", ""]
        epochs = [result["best_epoch"] for result in variant.results.values()]
        rows.append([*row, f"{statistics.fmean(epochs):.0f}"])
    return ["| " + " | ".join(row) + " |" for row in rows]


def difference(variant: Scores, whole: Scores, kind: str) -> list[str]:
    """NDCG@10 of the variant less that of the whole, paired over the users, and its p."""
    ours, theirs = (list(s.ranks[seed][kind] for seed in whole.ranks) for s in (variant, whole))
    result = compare(ours, theirs)
    return [f"{result.difference:+.4f}", f"{result.p:.1g}"]


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    wanted = [n for n in VARIANTS if any(part in n for part in options.only.split(","))]
    found = {name: scores(options, name) for name in dict.fromkeys(["RKSA", *wanted])}
    lines = [
        "# What each part of RKSA is worth",
        "",
        f"- command: `{shlex.join(['python', 'benchmarks/ablation.py', *sys.argv[1:]])}`",
        f"- machine: {machine()}",
        f"- test scores of the epoch with the best validation NDCG@10; means ± deviation over "
        f"{options.seeds} seeds; differences in NDCG@10 and p paired over the test users",
    ]
    for title in found["RKSA"]:
        lines += ["", f"## {title}", "", *table({name: s[title] for name, s in found.items()})]
    text = "\n".join(lines) + "\n"
    (Path(options.out) / "ablation.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
