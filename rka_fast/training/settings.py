"""The settings of a run: names, words, defaults, choices and ranges, each in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rka_fast.data.counting import COUNTING, STORED
from rka_fast.data.filters import CHOICES
from rka_fast.data.lists import FORMS
from rka_fast.data.readers import MAX_MISSING, MAX_UNPACKED
from rka_fast.data.split import MAX_COUNTED, SEEN
from rka_fast.data.split_rules import BOUNDARIES, MOST_SCORES, SPLITS, TARGETS
from rka_fast.models import MODELS
from rka_fast.models.losses import LOSSES, SHARING, STATE_LOSSES
from rka_fast.models.transformer import BLOCKS
from rka_fast.ops.arguments import ACTIVATIONS, MODES
from rka_fast.training.metrics import RANKINGS
from rka_fast.training.optimiser import DECAYS
from rka_fast.training.rules import COUNT, DEVICE, POSITIVE, Rule, setting
from rka_fast.training.tracking import TRACKERS

NEGATIVE_LOSSES = tuple(name for name in STATE_LOSSES if LOSSES[name].negatives)
"""Losses of which positions can share negatives."""

GROUPS = ("data", "model", "loss", "optimisation", "evaluation", "run")


@dataclass(frozen=True)
class Settings:
    """The fields of `Config`, in the order of the help."""

    data: str = setting(
        "data",
        "Log file, folder, pattern or archive, or several with commas between; "
        '"synthetic" is the built-in data set.',
        "synthetic",
    )
    columns: str | None = setting(
        "data",
        "Columns of the file by name or 0-based position: user,item[,rating[,timestamp]]; "
        '"-" skips.',
    )
    form: str = setting(
        "data",
        "What a line of text is: a row of a table, or one user's items in one of three ways.",
        "auto",
        choices=("auto", "table", *FORMS),
    )
    time_format: str | None = setting(
        "data", "How times are written: as in strptime, or s, ms, us, ns since 1970, or number."
    )
    where: str | None = setting(
        "data", "Keep the rows with COLUMN=VALUE (or != > >= < <=); several with commas between."
    )
    max_missing: float = setting(
        "data",
        "The share of rows that may lack a user, an item or a time; they are left out.",
        MAX_MISSING,
        rule=Rule("must be from 0 to 1", lambda value: 0 <= value <= 1),
    )
    max_unpacked: float = setting(
        "data",
        "Gigabytes that a packed file may have inside.",
        MAX_UNPACKED,
        rule=POSITIVE,
    )
    stream: bool = setting(
        "data",
        "Of data that rka-fast prepare wrote hold one shard at a time; several processes do so, "
        "each on its own, without being told.",
        False,
    )
    min_rating: float | None = setting(
        "data",
        "Drop events rated lower than this.",
        rule=Rule("must be a finite number", math.isfinite),
    )
    min_user_events: int = setting("data", "Drop users with fewer events than this.", 1, rule=COUNT)
    min_item_events: int = setting("data", "Drop items with fewer events than this.", 1, rule=COUNT)
    core: str = setting(
        "data",
        "Apply the two minimums once, or repeatedly until both hold (k-core).",
        "single",
        choices=("single", "iterated"),
    )
    duplicates: str = setting(
        "data",
        "Rows equal in user, item and time: drop all but the first, or keep them.",
        "drop",
        choices=CHOICES["duplicates"],
    )
    ties: str = setting(
        "data",
        "A user's events at one time: in the file's order, shuffled by the seed, or drop all but "
        "the first.",
        "file",
        choices=CHOICES["ties"],
    )
    repeats: str = setting(
        "data",
        "Keep or drop a user's repeated events with one item.",
        "keep",
        choices=("keep", "drop"),
    )
    valid: str | None = setting(
        "data", "Log of the events to validate on, where --data holds only those to train on."
    )
    test: str | None = setting("data", "Log of the events to test on, beside --valid.")
    split: str = setting(
        "data",
        "Hold out every user's last two events, what came after two points in time, what --valid "
        "and --test hold, or nothing (for serving).",
        "leave-one-out",
        choices=SPLITS,
    )
    split_boundaries: str = setting(
        "data",
        "When validation and test begin in a split by time: two quantiles of the event times, or "
        "two ISO dates (UTC).",
        BOUNDARIES,
    )
    split_targets: str = setting(
        "data",
        "Which of a user's events of a period a split by time asks for.",
        TARGETS[0],
        choices=TARGETS,
    )
    max_counted: int = setting(
        "data",
        "Of a user's training events the last this many count in the co-occurrence, whose memory "
        "grows with their square.",
        MAX_COUNTED,
        rule=COUNT,
    )
    counting: str = setting(
        "data",
        "Store the co-occurrence of pairs of items, or count it for each batch from an index of "
        "who has what: the same numbers. auto stores what surely takes less than "
        f"{STORED // 2**30} GiB.",
        COUNTING[0],
        choices=COUNTING,
    )
    item_features: str | None = setting(
        "data",
        "Parquet or CSV file of item features: an id column, and categories, numbers and vectors "
        "that the item vectors are made of too.",
    )
    max_length: int = setting(
        "data",
        "The model sees this many of a user's last events.",
        50,
        rule=Rule("must be at least 2", lambda value: value >= 2),
    )
    model: str = setting("model", "The model to train.", "rksa", choices=MODELS)
    width: int | None = setting(
        "model", "Width of the embeddings and of what computes on them.", rule=COUNT
    )
    blocks: int | None = setting("model", "Number of blocks.", rule=COUNT)
    heads: int | None = setting("model", "Attention heads per block.", rule=COUNT)
    dropout: float | None = setting(
        "model",
        "Dropout probability; recurrent models drop half as much of the embedded items.",
        rule=Rule("must be from 0 to below 1", lambda value: 0 <= value < 1),
    )
    block: str | None = setting(
        "model",
        "What stands around the attention: SASRec's block, or LiGR's, with gates.",
        choices=BLOCKS,
    )
    expansion: int | None = setting(
        "model",
        "Hidden width of a block's position-wise network in widths; 1 in SASRec's, 4 in LiGR's.",
        rule=COUNT,
    )
    temperature: float | None = setting(
        "model",
        "Compare states and items by their cosine over this, not by their inner product.",
        rule=POSITIVE,
    )
    tied: bool | None = setting(
        "model", "Use the item embedding for the output too, or one of its own (--no-tied)."
    )
    time_bias: bool | None = setting(
        "model",
        "Add to the attention logits by the time from an event to the request, which in training "
        "and evaluation is when the event to be predicted happens.",
    )
    position_bias: bool | None = setting(
        "model", "Add to the attention logits by the distance in positions."
    )
    activation: str | None = setting(
        "model",
        "Activation of the location and shape of the attention logits.",
        choices=ACTIVATIONS,
    )
    kernels: str | None = setting(
        "model", "Kernels of the covariance: cooccurrence, item or both, and user or not."
    )
    initial_scale: float | None = setting(
        "model", "Where the standard deviation of the attention logits starts.", rule=POSITIVE
    )
    leave_self_out: bool | None = setting(
        "model", "Take a training user's own sequence out of the co-occurrence counts."
    )
    train_mode: str | None = setting(
        "model",
        "Attention logits in training: a draw, their mean, or the location only, which is plain "
        "attention.",
        choices=MODES,
    )
    backend: str | None = setting(
        "model",
        "Backend of the attention operator; auto takes the fastest that supports the inputs.",
    )
    loss: str | None = setting(
        "loss",
        "Cross-entropy over all items, binary cross-entropy, the same with calibration, "
        "cross-entropy over sampled items, or the hinge of distances.",
        choices=LOSSES,
    )
    negatives: int | None = setting(
        "loss",
        "Negatives per position; by default "
        + ", ".join(f"{of.negatives} for {name}" for name, of in LOSSES.items() if of.negatives)
        + ".",
        rule=COUNT,
    )
    shared_negatives: str | None = setting(
        "loss",
        "Draw negatives for every position, or once for the positions of a sequence, or for all of "
        "a batch: a matrix product in place of a look-up.",
        choices=SHARING,
    )
    calibration: float | None = setting(
        "loss",
        "Of loss gbce, .75 by default: from 0, binary cross-entropy, to 1, calibrated "
        "probabilities.",
        rule=Rule("must be from 0 to 1", lambda value: 0 <= value <= 1),
    )
    log_q: bool | None = setting(
        "loss",
        "Weigh the negatives of loss sampled_ce for how rarely an item is drawn, so that they "
        "stand for all items.",
    )
    kernel_weight: float | None = setting(
        "loss",
        "Weight of the kernel loss.",
        rule=Rule("must not be negative", lambda value: 0 <= value < math.inf),
    )
    batch_size: int | None = setting(
        "optimisation", "Users per step, over all processes (bpr_mf: events).", rule=COUNT
    )
    learning_rate: float | None = setting(
        "optimisation", "Learning rate of Adam (bpr_mf: of plain descent).", rule=POSITIVE
    )
    weight_decay: float | None = setting(
        "optimisation",
        "Decoupled weight decay: every step takes learning rate times this of each weight away.",
        rule=Rule("must not be negative", lambda value: 0 <= value < math.inf),
    )
    sparse_adam: bool | None = setting(
        "optimisation",
        "Of the tables of items and users move only the rows that a step reads: another optimiser, "
        "lazy Adam, faster with many items and shared negatives.",
    )
    warm_up: int | None = setting(
        "optimisation", "Steps in which the learning rate rises to its value.", rule=COUNT
    )
    decay: str | None = setting(
        "optimisation",
        "How the learning rate goes to 0 from there to the last of the epochs.",
        choices=DECAYS,
    )
    average_weights: float | None = setting(
        "optimisation",
        "Evaluate, and keep as the best, an exponential average of the weights that keeps this "
        "much of itself at every step, such as .999.",
        rule=Rule("must be above 0 and below 1", lambda value: 0 < value < 1),
    )
    gradient_clip: float | None = setting(
        "optimisation",
        "Scale gradients of a longer norm, over all weights, to this.",
        rule=POSITIVE,
    )
    epochs: int | None = setting(
        "optimisation", "At most this many passes over the training users.", rule=COUNT
    )
    patience: int | None = setting(
        "optimisation",
        "Stop after this many evaluations without a better validation NDCG@10.",
        rule=COUNT,
    )
    precision: str = setting(
        "optimisation",
        "Precision of the matrix products.",
        "fp32",
        choices=("fp32", "bf16", "fp16"),
    )
    eval_every: int | None = setting(
        "evaluation", "Epochs between evaluations on the validation items.", rule=COUNT
    )
    select: str | None = setting(
        "evaluation",
        "The ranking of which NDCG@10 on validation chooses the best epoch: of 100 sampled "
        "negatives, or of all candidates.",
        choices=RANKINGS,
    )
    seen: str = setting(
        "evaluation",
        "Hide what a person has had, in evaluation and in recommending, or keep every item a "
        "candidate for everybody.",
        "hide",
        choices=SEEN,
    )
    eval_users: int | str | None = setting(
        "evaluation",
        "How many users an evaluation asks, a sample, or all. By default all, and where that takes "
        f"more than {MOST_SCORES:,} scores a pass a sample that takes as many.",
        rule=Rule(
            "must be a number from 1, or all",
            lambda value: value == "all" or (isinstance(value, int) and value >= 1),
        ),
    )
    eval_mode: str | None = setting(
        "evaluation",
        "Attention logits in evaluation: their mean, one draw, or the location only.",
        choices=MODES,
    )
    seed: int = setting(
        "run",
        "Seed of initial weights, batches, noise and the sampled negatives of the evaluation.",
        0,
        rule=Rule("must be from 0 to 2**63 - 1", lambda value: 0 <= value < 2**63),
    )
    from_run: str | None = setting(
        "run",
        "Run folder whose data, weights and settings a new run starts from; --data has the new "
        "events.",
        flag="from",
    )
    out: str | None = setting(
        "run",
        "Run folder; default runs/DATA-MODEL-seedSEED, with the settings that are not the "
        "defaults.",
    )
    track: str | None = setting(
        "run",
        "Report to trackers of experiments too, with commas between: " + ", ".join(TRACKERS) + ".",
    )
    json: str | None = setting("run", "Write the result to this JSON file too.")
    device: str = setting("run", "auto, cpu, cuda, cuda:N or mps.", "auto", rule=DEVICE)
    force: bool = setting("run", "Train also where the memory is foreseen not to suffice.", False)
    save_every: int | None = setting(
        "run", "Steps between checkpoints, besides the one after each epoch.", rule=COUNT
    )
