"""The table of what each part of RKSA is worth."""

import statistics

import ablation
import numpy as np
import pytest
from support.runs import SMALL, write_log

from rka_fast.reproduction.cells import parse_overrides
from rka_fast.reproduction.results import Scores
from rka_fast.training.config import Config
from rka_fast.training.run_folder import RunFolder


@pytest.mark.parametrize("name", ablation.VARIANTS)
def test_a_variant_differs_from_the_whole_in_what_it_sets_only(name):
    variant = ablation.VARIANTS[name]
    settings = parse_overrides(variant.settings).get("", {})
    before = Config(model=variant.model).to_json()
    after = Config(model=variant.model, **settings).to_json()
    assert {key for key in before if before[key] != after[key]} == set(settings)


def scores(ranks):
    """Scores of some seeds of three users with these ranks; full ranks are twice as large."""
    metrics = {"hit@10": 0.5, "ndcg@10": 0.25}
    result = {"test": {"sampled": metrics, "full": metrics}, "best_epoch": 3}
    ranks = {seed: np.asarray(of_seed) for seed, of_seed in ranks.items()}
    return Scores(
        results={seed: result for seed in ranks},
        ranks={seed: {"sampled": r, "full": r * 2} for seed, r in ranks.items()},
    )


def test_the_table_by_hand():
    whole = scores({0: [1, 1, 99], 1: [1, 3, 99]})
    variants = {"rksa": whole, "no-term": scores({0: [1, 1, 99], 1: [1, 99, 99]})}
    variants["mean"] = scores({1: [1, 99, 99]})  # its other seed failed
    both, one = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in ablation.table(variants)[-2:]
    )
    # The second user loses 1 / log2(3 + 1) in one of two seeds, one of three users.
    assert both[3] == f"{-0.5 / 2 / 3:+.4f}" and one[3] == f"{-0.5 / 3:+.4f}"
    assert both[7] == f"{-1 / np.log2(7) / 2 / 3:+.4f}"  # rank 6 in full ranking
    assert both[1] == ".5000 ± .0000" and one[1] == ".5000"
    assert both[-2:] == ["3", "2"] and one[-2:] == ["3", "1"]


def test_the_command_and_its_mistakes(tmp_path, capsys):
    log, out = write_log(tmp_path / "mine.txt"), tmp_path / "out"
    settings = [*(f"{name}={value}" for name, value in SMALL.items()), "rksa.dropout=0.4"]
    sets = [word for setting in settings for word in ("--set", setting)]
    flags = ["--seeds", "2", "--epochs", "1", "--out", str(out), *sets]
    found = ["--data", str(log), "--only", "no-dropout"]
    assert ablation.main([*found, *flags]) == 0
    text = (out / "ablation.md").read_text()
    assert text in capsys.readouterr().out and "`python benchmarks/ablation.py --data" in text
    for name in ("rksa", "no-dropout"):
        variant = ablation.VARIANTS[name]
        cells = [
            RunFolder(out / name / "mine" / variant.model / f"seed{seed}").read_json("result.json")
            for seed in (0, 1)
        ]
        mean = statistics.mean(cell["test"]["full"]["hit@10"] for cell in cells)
        row = next(line for line in text.splitlines() if line.startswith(f"| {variant.title} "))
        assert row.split("|")[6].split()[0] == f"{mean:.4f}".replace("0.", ".", 1)
        dropout = {"no-dropout": 0, "rksa": 0.4}.get(name, cells[0]["config"]["dropout"])
        assert cells[0]["config"]["dropout"] == dropout
    assert ablation.main([*found, "--only", "no-dropuot", *flags]) == 2
    assert "unknown variant 'no-dropuot'; did you mean 'no-dropout'?" in capsys.readouterr().err
    assert ablation.main(["--data", str(tmp_path / "none.txt"), *flags]) == 2
    assert "error: " in capsys.readouterr().err
