"""One recommender a file; `MODELS` maps the names on the command line to them."""

from rka_fast.models.attrec import AttRec
from rka_fast.models.base import Recommender
from rka_fast.models.bpr_mf import BPRMF
from rka_fast.models.gru4rec import GRU4Rec
from rka_fast.models.hcrnn import HCRNN
from rka_fast.models.item_knn import ItemKNN
from rka_fast.models.narm import NARM
from rka_fast.models.popularity import Popularity
from rka_fast.models.rksa import RKSA
from rka_fast.models.sasrec import SASRec

MODELS: dict[str, type[Recommender]] = {
    "rksa": RKSA,
    "sasrec": SASRec,
    "pop": Popularity,
    "item_knn": ItemKNN,
    "bpr_mf": BPRMF,
    "gru4rec": GRU4Rec,
    "narm": NARM,
    "hcrnn": HCRNN,
    "attrec": AttRec,
}
