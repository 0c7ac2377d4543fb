"""The data sets by name: their files, where to get them, what they are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rka_fast.files import stem


@dataclass(frozen=True)
class Dataset:
    """One data set.

    name: on the command line. title: for people, with the cut of the data where there are several.
    files: what to look for, as folder/name; all are needed.
    source: where to get it.
    counts: users, items and events of the known files; files with others are another data set.
    paper: the row of the paper's table to compare with, or None.
    note: how it differs from that row, or why there is none.
    settings: for all models, weaker than a model's own defaults.
    attention: for SASRec and RKSA alike, stronger than them.
    """

    name: str
    title: str
    files: tuple[str, ...] = ()
    source: str = ""
    counts: tuple[int, int, int] | None = None
    paper: str | None = None
    note: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    attention: dict[str, Any] = field(default_factory=dict)

    def find(self, folder: Path) -> list[Path] | None:
        """The files under `folder`, in their sub-folder or flat, gzip or plain; None if not all.

        Files that share a sub-folder are looked for together, so that none is mixed up.
        """
        for flat in (False, True):
            names = [Path(file).name if flat else file for file in self.files]
            found = [file for name in names if (file := _existing(folder / name))]
            if found and len(found) == len(names):
                return found
        return None

    def is_known(self, users: int, items: int, events: int) -> bool:
        """Whether the counts are those of the known files (true where none are on record)."""
        return self.counts is None or self.counts == (users, items, events)


def _existing(path: Path) -> Path | None:
    plain = path.with_name(path.name.removesuffix(".gz"))
    return next((file for file in (path, plain) if file.is_file()), None)


def own_log(source: str) -> Dataset:
    """A user's own log: named like its (first) file, compared with nothing."""
    name = stem(source)
    return Dataset(name=f"own-{name}" if name in DATASETS else name, title=f"Own data, {source}")


# Dropout: high where the data is sparse and .2 on MovieLens, like the paper's SASRec (.5 and .2);
# on CiteULike cross-entropy was best at .4 with and without the kernel loss.
# Loss: cross-entropy over all items, but where these are tens of thousands over 128 sampled ones,
# which costs the same for any number of them and ranks better than binary cross-entropy with and
# without the kernel loss. Evaluation over so many users is costly too, so it is not every epoch.
_MANY_ITEMS = {"loss": "sampled_ce", "dropout": 0.5, "eval_every": 2, "patience": 5}
_MANY_USERS = {"eval_every": 5, "patience": 6}

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="citeulike",
            title="CiteULike, the three session files of HCRNN pooled",
            files=tuple(f"citeulike/hcrnn_{part}.txt.gz" for part in ("train", "valid", "test")),
            source="the CiteULike session files (train, valid, test) published with HCRNN "
            "(Song et al., AAAI 2019), saved as hcrnn_train.txt, hcrnn_valid.txt, hcrnn_test.txt",
            counts=(1_798, 1_980, 49_662),
            paper="CiteULike",
            attention={"dropout": 0.4},
        ),
        Dataset(
            name="games",
            title="Amazon Games, SASRec's file",
            files=("sasrec/video_sasrec.txt.gz",),
            source="data/Video.txt of https://github.com/kang205/SASRec, saved as video_sasrec.txt",
            counts=(31_013, 23_715, 287_107),
            paper="Games",
            settings=_MANY_USERS,
            attention=_MANY_ITEMS,
        ),
        Dataset(
            name="beauty",
            title="Amazon Beauty, BERT4Rec's cut",
            files=("sasrec/beauty_bert4rec.txt.gz",),
            source="the Beauty file of https://github.com/FeiSun/BERT4Rec, saved as "
            "beauty_bert4rec.txt",
            counts=(40_226, 54_542, 353_962),
            paper="Beauty",
            note="The paper's Beauty is SASRec's cut of 52,024 users; this is BERT4Rec's of "
            "40,226: near it, not the same.",
            settings=_MANY_USERS,
            attention=_MANY_ITEMS,
        ),
        Dataset(
            name="ml-100k",
            title="MovieLens 100K",
            files=("ml-100k/u.data.gz",),
            source="https://grouplens.org/datasets/movielens/100k/ (u.data)",
            counts=(943, 1_682, 100_000),
            note="The paper's MovieLens is HCRNN's cut of 1M (4,639 users, 930 items); there is no "
            "figure of the paper for 100K.",
            attention={"dropout": 0.2},
        ),
        Dataset(
            name="ml-1m",
            title="MovieLens 1M, SASRec's filter",
            files=("sasrec/ml-1m_sasrec.txt.gz",),
            source="https://grouplens.org/datasets/movielens/1m/, preprocessed as in "
            "https://github.com/kang205/SASRec, saved as ml-1m_sasrec.txt",
            counts=(6_040, 3_416, 999_611),
            note="The paper's MovieLens is HCRNN's cut (4,639 users, 930 items), another data set.",
            settings={"max_length": 200},  # like SASRec's own setting for sequences this long
            attention={"dropout": 0.2},
        ),
        Dataset(
            name="beauty-5core",
            title="Amazon Beauty, 5-core",
            files=("s3rec/Beauty.txt.gz",),
            source="data/Beauty.txt of https://github.com/RUCAIBox/CIKM2020-S3Rec, saved as "
            "s3rec/Beauty.txt",
            counts=(22_363, 12_101, 198_502),
            note="The paper's Beauty is SASRec's cut of 52,024 users, another data set.",
            settings=_MANY_USERS,
            attention={"dropout": 0.5},
        ),
        Dataset(
            name="steam",
            title="Steam, SASRec's file",
            files=("sasrec/Steam.txt.gz",),
            source="the Steam reviews of https://cseweb.ucsd.edu/~jmcauley/datasets.html, "
            "preprocessed as in https://github.com/kang205/SASRec, saved as Steam.txt",
            paper="Steam",
            settings=_MANY_USERS,
            attention=_MANY_ITEMS,
        ),
        Dataset(
            name="steam-au",
            title="Steam, reviews by Australian users",
            files=("steam/steam_au_reviews.csv.gz",),
            source="the Australian users' reviews of "
            "https://cseweb.ucsd.edu/~jmcauley/datasets.html, as CSV with the columns "
            "user_id,item_id,posted,recommend, saved as steam_au_reviews.csv",
            counts=(22_825, 2_897, 49_070),
            note="The paper's Steam is SASRec's file; these are the far fewer reviews of "
            "Australian users, another data set.",
            settings={"duplicates": "keep"},  # five reviews stand there twice
            attention={"dropout": 0.5},
        ),
    )
}
