"""Table 2 of the paper (Ji et al., AAAI 2020, arXiv 1911.06478): the figures ours stand beside.

Leave-one-out, 100 sampled negatives.
"""

PAPER_METRICS = ("hit@5", "ndcg@5", "hit@10", "ndcg@10")

PAPER_MODELS = "pop item_knn bpr_mf gru4rec narm hcrnn attrec sasrec rksa".split()
"""The columns: the models by their names here."""

POP_FOOTNOTE = (
    "The paper's NDCG of POP is off by one: it is 1/log2(rank + 2) with a rank that starts at 1. "
    "Ours is 1/log2(rank + 1)."
)

_ROWS = {  # as printed: rows are metrics, columns are models
    "Beauty": """
        .2972 .0885 .0735 .3097 .3663 .3643 .3341 .3735 .3999
        .1478 .0872 .0486 .2257 .2785 .2764 .2535 .2846 .2998
        .4289 .0885 .1285 .4174 .4674 .4653 .4222 .4720 .5015
        .1882 .0872 .0662 .2604 .3111 .3091 .2819 .3164 .3326""",
    "Games": """
        .3416 .1969 .1291 .5749 .6224 .6229 .5673 .6395 .6544
        .1730 .1892 .0920 .4570 .4927 .4955 .4358 .5068 .5168
        .4846 .1969 .1919 .6733 .7244 .7233 .6812 .7373 .7551
        .2168 .1892 .1121 .4889 .5257 .5281 .4727 .5385 .5495""",
    "CiteULike": """
        .1318 .3563 .1624 .4310 .4457 .4442 .4275 .5044 .5308
        .0650 .2666 .1107 .2982 .3016 .3053 .2891 .3447 .3687
        .2144 .3815 .2472 .5879 .6150 .6077 .5808 .6757 .6893
        .0902 .2751 .1378 .3488 .3565 .3583 .3388 .4001 .4202""",
    "Steam": """
        .5545 .2964 .5724 .7065 .7095 .7136 .5936 .7477 .7514
        .2873 .2724 .4144 .5444 .5476 .5516 .4182 .5828 .5841
        .7162 .2965 .7083 .8293 .8314 .8344 .7491 .8610 .8668
        .3370 .2724 .4587 .5844 .5873 .5909 .4687 .6196 .6217""",
    "MovieLens": """
        .1521 .2950 .1241 .3883 .4057 .4039 .3493 .4260 .4361
        .0733 .2019 .0767 .2650 .2775 .2770 .2217 .2965 .3023
        .2547 .4051 .2088 .5487 .5617 .5606 .5094 .5873 .5997
        .1044 .2376 .1039 .3167 .3278 .3275 .2734 .3485 .3552""",
}

FIGURES: dict[str, dict[str, dict[str, float]]] = {
    row: {
        model: dict(zip(PAPER_METRICS, map(float, column), strict=True))
        for model, column in zip(
            PAPER_MODELS, zip(*map(str.split, text.strip().splitlines()), strict=True), strict=True
        )
    }
    for row, text in _ROWS.items()
}
"""FIGURES[row of the paper][model][metric]."""
