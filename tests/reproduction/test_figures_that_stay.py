"""Published figures rest on these: candidates and ranks of public logs, which must never move.

The sums were made by the release whose tables are in docs/results.md; the data has no repeated
items, and ties stand in the order of the file.
"""

import hashlib

import numpy as np
import pytest

from rka_fast.data.batches import Batcher, sampled_candidates
from rka_fast.data.filters import build_sequences
from rka_fast.data.readers import read_interactions
from rka_fast.data.split_rules import leave_one_out
from rka_fast.models import MODELS
from rka_fast.training.config import Config
from rka_fast.training.metrics import Evaluation, both_metrics

CITEULIKE = [f"citeulike/hcrnn_{part}.txt.gz" for part in ("train", "valid", "test")]


def digest(x) -> str:
    return hashlib.sha256(np.ascontiguousarray(x, dtype=np.int32).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("files", "candidates", "ranks", "ndcg"),
    [
        (
            CITEULIKE,
            "47b65d4de5f97564",
            {"pop": "72fd2b17ad21e46b", "item_knn": "94b8c341fd715fe0"},
            {"pop": (0.112373, 0.014690), "item_knn": (0.271358, 0.077066)},
        ),
        (
            ["ml-100k/u.data.gz"],
            "845fb0f5c97dad6b",
            {"pop": "d4c44f1e252961fd", "item_knn": "19500893a1fb54d8"},
            {"pop": (0.222291, 0.043211), "item_knn": (0.323663, 0.083214)},
        ),
        pytest.param(
            ["sasrec/video_sasrec.txt.gz"],
            "c681b195c5a60043",
            {"pop": "725627e1b5aff832", "item_knn": "1b64481292334259"},
            {"pop": (0.275307, 0.009855), "item_knn": (0.178145, 0.043108)},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["citeulike", "ml-100k", "games"],
)
def test_candidates_and_ranks_stay(shared_data, files, candidates, ranks, ndcg):
    log = read_interactions([shared_data / file for file in files])
    split = leave_one_out(build_sequences(log)[0])
    assert not split.had("test").any()
    drawn = sampled_candidates(split, "test", seed=0)
    assert digest(drawn) == candidates
    for name, expected in ranks.items():
        model = MODELS[name].from_config(Config(model=name), split)
        model.fit(split)
        found = Evaluation(split, Batcher(split, None, 50, 0), "test", drawn)(model).ranks
        assert digest(found.numpy()) == expected, name
        of = both_metrics(found)
        assert (of["sampled"]["ndcg@10"], of["full"]["ndcg@10"]) == pytest.approx(
            ndcg[name], abs=1e-6
        )
