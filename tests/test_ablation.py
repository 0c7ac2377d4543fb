"""The table of what each part of RKSA is worth."""

import ablation
import numpy as np
import pytest

from rka_fast.reproduction.cells import parse_overrides
from rka_fast.reproduction.outcome import Scores
from rka_fast.training.config import Config


@pytest.mark.parametrize("name", ablation.VARIANTS)
def test_a_variant_differs_from_the_whole_in_what_it_sets_only(name):
    settings = parse_overrides(ablation.VARIANTS[name])[""] if ablation.VARIANTS[name] else {}
    whole, variant = Config(model="rksa").to_json(), Config(model="rksa", **settings).to_json()
    assert {key for key in whole if whole[key] != variant[key]} == set(settings)


def scores(ranks):
    """Scores of two seeds of three users with these ranks, sampled and full alike."""
    ranks = np.asarray(ranks)
    metrics = {"hit@10": 0.5, "ndcg@10": 0.25}
    result = {"test": {"sampled": metrics, "full": metrics}, "best_epoch": 3}
    return Scores(
        results={seed: result for seed in (0, 1)},
        ranks={seed: {"sampled": ranks[seed], "full": ranks[seed] * 2} for seed in (0, 1)},
    )


def test_the_table_by_hand():
    whole = scores([[1, 1, 99], [1, 3, 99]])
    less = scores([[1, 1, 99], [1, 99, 99]])
    lines = ablation.table({"RKSA": whole, "less": less})
    cells = [cell.strip() for cell in lines[-1].split("|")[1:-1]]
    # The second user loses 1 / log2(3 + 1) in one of two seeds, one of three users.
    assert cells[3] == f"{-0.5 / 2 / 3:+.4f}"
    assert cells[7] == f"{-1 / np.log2(7) / 2 / 3:+.4f}"  # rank 6 in full ranking
    assert cells[0] == "less" and cells[1] == ".5000 ± .0000" and cells[-1] == "3"
