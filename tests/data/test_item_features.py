"""Features of items read from tables, against what was written into them."""

import math

import numpy as np
import polars as pl
import pytest
from support.sequences import sequences_of

from rka_fast.data.item_features import read_item_features, with_features
from rka_fast.data.sequences import Sequences
from rka_fast.errors import DataError

CSV = """item_id,genre,year,title,same
i2,Drama|Comedy,1990,One,7
i1,Drama,2000,Two,7
i9, Comedy ,,Three,7
i8,,1980,Four,7
"""


@pytest.fixture
def sequences():
    return sequences_of([[1, 2, 3], [3, 2, 1]])


def test_text_categories_and_numbers(sequences, tmp_path):
    path = tmp_path / "items.csv"
    path.write_text(CSV)
    found, facts, lines = with_features(sequences, read_item_features(path))
    assert found.item_ids == ["i1", "i2", "i3", "i9", "i8"]  # those without events at the end
    assert found.feature_names == ["genre=Comedy", "genre=Drama", "year"]
    z = 10 / math.sqrt(200 / 3)  # of 1980, 1990 and 2000
    expected = [[0, 1, z], [1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, -z]]
    np.testing.assert_allclose(found.features, expected, rtol=1e-6)
    assert facts == {"count": 3, "items_without_events": 2, "items_without": 1}
    text = "\n".join(lines)
    assert "2 items without events join the catalogue, 1 items have no features" in text
    assert "title: 0 categories, and 4 of one item alone, left out" in text
    assert "year: numbers, 1 missing" in text and "same: the same for all, left out" in text


def test_parquet_lists_are_vectors_or_categories(sequences, tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3, 4))
    frame = pl.DataFrame(
        {
            "tags": [["a", "b"], ["a"], ["b", "c"]],
            "item": ["i1", "i2", "i3"],
            "text": vectors.tolist(),
            "new": [True, False, True],
        }
    )
    frame.write_parquet(tmp_path / "items.parquet")
    found, _, _ = with_features(sequences, read_item_features(tmp_path / "items.parquet"))
    text = [f"text[{i}]" for i in range(4)]
    assert found.feature_names == ["tags=a", "tags=b", *text, "new"]
    np.testing.assert_array_equal(found.features[:, :2], [[1, 1], [1, 0], [0, 1]])
    centred = vectors - vectors.mean(0)
    scaled = centred / np.sqrt((centred**2).sum(1)).mean()
    np.testing.assert_allclose(found.features[:, 2:6], scaled, rtol=1e-5, atol=1e-7)
    flag = np.array([1, 0, 1])
    np.testing.assert_allclose(found.features[:, 6], (flag - 2 / 3) / flag.std(), rtol=1e-6)


def test_saved_features_come_back_and_count_in_the_digest(sequences, tmp_path):
    path = tmp_path / "items.csv"
    path.write_text(CSV)
    found = with_features(sequences, read_item_features(path))[0]
    found.save(tmp_path / "saved")
    again = Sequences.load(tmp_path / "saved")
    assert again.feature_names == found.feature_names and again.digest() == found.digest()
    assert (again.features == found.features).all()
    path.write_text(CSV.replace("2000", "2001"))
    assert with_features(sequences, read_item_features(path))[0].digest() != found.digest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("item_id\ni1\n", "its first line has one column"),
        ("item_id,x\n", "expected a column of item ids"),
        ("item_id,x\ni1,2\ni1,3\n", "item 'i1' has 2 rows"),
        ("item_id,title\ni1,One\ni2,Two\n", "expected 1 to 8,192 features, got 0"),
    ],
)
def test_what_has_no_features_is_refused(sequences, content, message, tmp_path):
    path = tmp_path / "items.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        with_features(sequences, read_item_features(path))
    with pytest.raises(DataError, match="cannot read"):
        read_item_features(tmp_path / "none.csv")
