"""Explanations of small runs against the formulas, and against recommending by other histories."""

import dataclasses
import json
import math

import numpy as np
import pytest
from support.runs import train, write_log

from rka_fast.errors import ConfigError, DataError
from rka_fast.run import Run

HISTORY = ["i3", "i5", "i9", "i5", "i20"]


@pytest.fixture(scope="module", params=["rksa", "sasrec", "gru4rec", "pop"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    epochs = () if request.param == "pop" else ("--epochs", "2")
    assert (
        train(write_log(folder / "log.txt"), folder / "run", "--model", request.param, *epochs) == 0
    )
    return Run.load(folder / "run")


def test_the_list_is_the_one_that_is_recommended(run):
    found = run.explain([HISTORY], top=5)
    expected = run.recommend([HISTORY], top=5)
    assert [r.item.id for r in found.recommended] == expected["item"].to_list()
    scores = [r.score for r in found.recommended]
    np.testing.assert_allclose(scores, expected["score"], rtol=1e-6, atol=1e-6)
    of_user = run.explain("u7", top=5)
    assert [r.item.id for r in of_user.recommended] == run.recommend("u7", 5)["item"].to_list()
    assert of_user.user == "u7" and found.user is None


def test_leaving_an_event_out_is_recommending_without_it(run):
    found = run.explain([HISTORY], top=4)
    everything = run.sequences.num_items
    for place in range(len(HISTORY)):
        rest = HISTORY[:place] + HISTORY[place + 1 :]
        table = run.recommend([rest], top=everything, exclude=[HISTORY[place]])
        rank = dict(zip(table["item"], table["rank"], strict=True))
        score = dict(zip(table["item"], table["score"], strict=True))
        for shown in found.recommended:
            assert shown.without[place].score == pytest.approx(score[shown.item.id], abs=2e-6)
            if run.config.model != "pop":  # whose scores tie
                assert shown.without[place].rank == rank[shown.item.id]
        now, before = table["item"].to_list()[:4], [r.item.id for r in found.recommended]
        change = found.changes[place]
        assert [x.id for x in change.gone] == [item for item in before if item not in now]
        assert [x.id for x in change.come] == [item for item in now if item not in before]


def test_shares_are_of_models_whose_score_is_a_sum(run):
    for shown in run.explain([HISTORY], top=3).recommended:
        if run.config.model not in ("rksa", "sasrec"):
            assert shown.parts is None
            continue
        total = sum(shown.parts.items) + sum(shown.parts.places) + shown.parts.constants
        assert total == pytest.approx(shown.score, abs=1e-5)


def test_attention_and_how_sure(run):
    found = run.explain([HISTORY], top=3, draws=256)
    if run.config.model not in ("rksa", "sasrec"):
        assert found.attention == [] and found.draws == 0
        return
    (block,) = found.attention
    assert sum(block.weights) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(np.mean(block.heads, axis=0), block.weights, atol=1e-7)
    if run.config.model == "sasrec":
        assert block.drawn is None and found.draws == 0
        assert all(shown.sureness is None for shown in found.recommended)
        return
    assert sum(spread.mean for spread in block.drawn) == pytest.approx(1, abs=1e-5)
    assert all(s.low <= s.mean <= s.high and s.deviation > 0 for s in block.drawn)
    items = run.sequences.num_items
    table = run.recommend([HISTORY], top=items, draws=256, seed=5)  # other draws of the same law
    mean, std = (dict(zip(table["item"], table[name], strict=True)) for name in ("mean", "std"))
    for shown in found.recommended:
        score = shown.sureness.score
        # Five standard errors of the difference of two means of 256 draws.
        error = std[shown.item.id] * math.sqrt(2 / 256)
        assert abs(score.mean - mean[shown.item.id]) < 5 * error
        # The deviation of 256 draws is within 6 sigma = 6 / sqrt(512) of another's, tails included.
        assert 0.5 < score.deviation / std[shown.item.id] < 2
        assert 0 <= shown.sureness.first <= shown.sureness.listed <= 1
        assert shown.sureness.rank.low <= shown.sureness.rank.mean <= shown.sureness.rank.high
    again = run.explain([HISTORY], top=3, draws=256)
    assert again == found  # seeded


def test_kernels_by_the_formulas(run):
    """Of a user, whose own events are taken out of the counts, and of nobody of the data."""
    if run.config.model != "rksa":
        assert run.explain([HISTORY]).kernels is None
        return
    model, sequences = run.model, run.sequences
    counts = run.batcher.cooccurrence.matrix.toarray().astype(float)
    vectors = model.items.weight.detach().double().numpy()
    gamma = model.kernels.log_concentration.exp().detach().double().numpy()
    trained = set(run.batcher.split.training_items.of(sequences.user_index("u7")).tolist())
    for of, user in (("u7", sequences.user_index("u7")), ([HISTORY], -1)):
        found = run.explain(of, top=3)
        own = trained if user >= 0 else set()
        u = model.users.weight[user + 1].detach().double().numpy()
        weight, bias = (
            x.detach().double().numpy()
            for x in (model.kernels.mixture_weight, model.kernels.mixture_bias)
        )
        r = np.exp(weight @ u + bias) * [1, 1, user >= 0]
        r /= r.sum()
        linear = model.kernels.gate
        gate_weight, gate_bias = (x.detach().double().numpy() for x in (linear.weight, linear.bias))
        g = 2 / (1 + np.exp(-(gate_weight @ u + gate_bias)))
        assert list(found.kernels.weights.values()) == pytest.approx(r.tolist(), abs=1e-6)

        def count(a, b, own=own):
            return counts[a, b] - (a in own and b in own)

        def cosine(a, b):
            return a @ b / math.sqrt((a @ a) * (b @ b))

        for place, shown in enumerate(found.recommended):
            j = int(sequences.item_indices([shown.item.id])[0])
            for event, at in enumerate(found.history):
                i = int(sequences.item_indices([at.item.id])[0])
                support = count(i, i) * count(j, j)
                k_c = count(i, j) / math.sqrt(support) if support else 0.0
                k_i = math.exp(2 * gamma[0] * (cosine(vectors[i], vectors[j]) - 1))
                k_u = math.exp(2 * gamma[1] * (cosine(vectors[i] * g, vectors[j] * g) - 1))
                values = [
                    found.kernels.values[n][place][event]
                    for n in ("cooccurrence", "item", "user", "mixture")
                ]
                mixed = r @ [k_c, k_i, k_u]
                assert values == pytest.approx([k_c, k_i, k_u, mixed], abs=1e-5)


def test_popularity_and_neighbours_by_plain_counting(run):
    found = run.explain([HISTORY], top=3)
    sequences, split = run.sequences, run.batcher.split
    had = np.zeros((sequences.num_users, sequences.num_items + 1), bool)
    for user in range(sequences.num_users):
        had[user, sequences.items[sequences.indptr[user] : split.train_end[user]]] = True
    users = had.sum(0)
    for shown in found.recommended:
        j = int(sequences.item_indices([shown.item.id])[0])
        assert shown.item.users == users[j]
        assert shown.item.popularity == 1 + (users[1:] > users[j]).sum()
        both = (had & had[:, [j]]).sum(0)
        cosine = both / np.sqrt(np.maximum(users, 1) * max(users[j], 1))
        cosine[j] = 0
        best = np.sort(cosine)[::-1]
        told = [value for _, value in shown.neighbours_by_counts]
        assert told == pytest.approx([x for x in best[:5] if x > 0])
    shown = [users[sequences.item_indices([x.id])[0]] for x in found.popular]
    free = np.delete(users, [0, *sequences.item_indices(HISTORY)])
    assert shown == np.sort(free)[::-1][:3].tolist()
    assert not {x.id for x in found.near} & set(HISTORY)


def test_events_before_what_the_model_reads(run):
    long = [f"i{i}" for i in range(12)]
    found = run.explain([long], top=2)
    read = run.config.max_length or 12
    assert (len(found.history), found.earlier) == (min(read, 12), 12 - min(read, 12))
    assert [event.item.id for event in found.history] == long[-read:]
    assert len(found.changes) == len(found.history)


def test_one_event_has_nothing_to_leave_out(run):
    found = run.explain([["i3"]], top=2)
    assert found.changes == [] and found.recommended[0].without == []


def test_json_is_the_numbers(run):
    found = run.explain([HISTORY], top=2, titles={"i3": "Three"})
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["history"][0]["item"]["title"] == "Three"
    assert told["recommended"][0]["score"] == found.recommended[0].score
    assert told["draws"] == found.draws
    assert set(told) == {field.name for field in dataclasses.fields(found)}


@pytest.mark.parametrize(
    ("flags", "used"),
    [
        (("--eval-mode", "sample", "--kernels", "item"), ["item"]),
        (("--eval-mode", "location", "--kernels", "item,user", "--seen", "keep"), ["item", "user"]),
    ],
)
def test_other_modes_and_kernels(flags, used, tmp_path):
    """A run that evaluates by draws is explained by the mean of its logits."""
    assert train(write_log(tmp_path / "log.txt"), tmp_path / "run", "--epochs", "1", *flags) == 0
    run = Run.load(tmp_path / "run")
    found = run.explain([HISTORY], top=3)
    for shown in found.recommended:
        total = sum(shown.parts.items) + sum(shown.parts.places) + shown.parts.constants
        assert total == pytest.approx(shown.score, abs=1e-5)
        assert shown.sureness.score.deviation > 0
    weights = found.kernels.weights
    assert [name for name, weight in weights.items() if weight] == used[:1]  # of nobody: no user's
    assert sum(run.explain("u7").kernels.weights.values()) == pytest.approx(1)
    assert [n for n, weight in run.explain("u7").kernels.weights.items() if weight] == used
    assert found.seen == ("keep" if "keep" in flags else "hide")
    if found.seen == "keep":
        everything = run.explain([HISTORY], top=run.sequences.num_items)
        assert len(everything.recommended) == run.sequences.num_items
        expected = run.recommend([HISTORY], top=3)["item"].to_list()
        assert [shown.item.id for shown in found.recommended] == expected


def test_what_was_trained_without_draws_is_explained_without(tmp_path):
    flags = ("--epochs", "1", "--train-mode", "location")
    assert train(write_log(tmp_path / "log.txt"), tmp_path / "run", *flags) == 0
    run = Run.load(tmp_path / "run")
    found = run.explain([HISTORY], top=3)
    assert found.draws == 0 and [block.drawn for block in found.attention] == [None]
    assert [shown.sureness for shown in found.recommended] == [None] * 3
    expected = run.recommend([HISTORY], top=3)
    assert [shown.item.id for shown in found.recommended] == expected["item"].to_list()


def test_wrong_requests_are_messages(run):
    with pytest.raises(ConfigError, match="draws must be at least 2, got 1"):
        run.explain([HISTORY], draws=1)
    with pytest.raises(ConfigError, match="top must be at least 1, got 0"):
        run.explain([HISTORY], top=0)
    with pytest.raises(DataError, match="unknown item id 'nothing'"):
        run.explain([["nothing"]])
    with pytest.raises(DataError, match="no item is left that may be shown after this history"):
        run.explain([run.sequences.item_ids])
    with pytest.raises(DataError, match="expected one history to explain, got 2"):
        run.explain([["i3"], ["i4"]])
