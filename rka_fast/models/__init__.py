"""One recommender a file; `MODELS` maps the names on the command line to them."""

from rka_fast.models.base import Recommender
from rka_fast.models.popularity import Popularity
from rka_fast.models.rksa import RKSA
from rka_fast.models.sasrec import SASRec

MODELS: dict[str, type[Recommender]] = {"rksa": RKSA, "sasrec": SASRec, "pop": Popularity}
