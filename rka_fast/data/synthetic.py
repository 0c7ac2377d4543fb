"""A log made from a seed, for trying things out where there is no data. It is not real data."""

import numpy as np
import polars as pl

from rka_fast.data.readers import Interactions

_GROUP = 25  # items per group
_TASTES = np.array([0.5, 0.3, 0.2])  # a user's share of each of its groups
_STAY = 0.8  # chance to stay in the group of the item before
_SUCCESSORS = np.array([0.5, 0.25, 0.15])  # the rest, 0.1, goes to the group by popularity
_SHORTEST, _LONGEST = 8, 40


def synthetic(seed: int = 0, users: int = 2000, items: int = 1000) -> Interactions:
    """Interactions (user, item, timestamp) in time order; the same on every machine.

    How they are made:

    - *Co-occurrence groups.* Items come in groups of 25. Groups, and items inside a group, have
      a skewed popularity: the r-th most popular weighs 1 / (r + 10) and 1 / (r + 4).
    - *User taste.* A user likes 3 groups, drawn by popularity, half, three and two tenths.
    - *Markov order.* Every item has 3 successors in its group. After an item a user stays in its
      group with chance 0.8, and takes a successor with chance 0.5, 0.25, 0.15 or else any item
      by popularity; otherwise it goes to a group of its taste, to an item by popularity.
    - No user has an item twice, so what was had is left out of every draw. Users have 8 to 40
      events, seconds to days apart.

    So the last item, the groups that go together and the user each say something about the next
    event. `items` is a multiple of 25, at least 100 (there must be groups to choose from).
    """
    if items % _GROUP or items < 4 * _GROUP:
        raise ValueError(f"items={items}: expected a multiple of {_GROUP}, at least {4 * _GROUP}")
    # Only uniform doubles are drawn: their stream is the same for every numpy and machine.
    rng = np.random.Generator(np.random.PCG64(seed))
    groups = items // _GROUP
    transitions = _transitions(rng, groups)
    popular = 1 / (np.arange(_GROUP) + 4)
    tastes = _tastes(rng, users, groups)
    lengths = _SHORTEST + (np.square(rng.random(users)) * (_LONGEST - _SHORTEST + 1)).astype(int)

    had = np.zeros((users, groups, _GROUP), bool)
    everyone = np.arange(users)
    group = tastes[everyone, _draw(rng, np.tile(_TASTES, (users, 1)))]
    place = np.zeros(users, int)
    history = np.empty((users, _LONGEST), int)
    for step in range(_LONGEST):
        stay = (rng.random(users) < _STAY) & (step > 0)
        chosen = tastes[everyone, _draw(rng, np.tile(_TASTES, (users, 1)))]
        weights = np.where(stay[:, None], transitions[group, place], popular)
        group = np.where(stay, group, chosen)
        # Who has had a whole group goes on in the least used one.
        full = had[everyone, group].all(axis=1)
        group[full] = had[full].sum(axis=2).argmin(axis=1)
        weights[full] = popular
        place = _draw(rng, weights * ~had[everyone, group])
        had[everyone, group, place] = True
        history[:, step] = group * _GROUP + place

    start = rng.random(users) * 300 * 86400
    gaps = 30 + np.square(np.square(rng.random((users, _LONGEST)))) * 3 * 86400
    times = np.floor(1.6e9 + start[:, None] + np.cumsum(gaps, axis=1))
    names = np.argsort(rng.random(items))  # so that an id says nothing about its group
    user, step = np.nonzero(np.arange(_LONGEST) < lengths[:, None])
    frame = pl.DataFrame(
        {
            "user": [f"user{u}" for u in user],
            "item": [f"item{names[i]}" for i in history[user, step]],
            "timestamp": times[user, step],
        }
    )
    form = f"synthetic interactions (not real data) from seed {seed}: columns user, item, timestamp"
    return Interactions(frame.sort("timestamp", maintain_order=True), form)


def _transitions(rng: np.random.Generator, groups: int) -> np.ndarray:
    """Weights of the next place inside a group, (groups, place, next place)."""
    popular = 1 / (np.arange(_GROUP) + 4)
    weights = np.tile(
        (1 - _SUCCESSORS.sum()) * popular / np.cumsum(popular)[-1], (groups, _GROUP, 1)
    )
    # Three cycles through a random order: every item is followed, and follows, as often.
    order = np.argsort(rng.random((groups, _GROUP)), axis=1)
    rows = np.arange(groups)[:, None]
    for ahead, weight in enumerate(_SUCCESSORS, start=1):
        weights[rows, order, np.roll(order, -ahead, axis=1)] += weight
    return weights


def _tastes(rng: np.random.Generator, users: int, groups: int) -> np.ndarray:
    """Distinct groups a user likes, most liked first, (users, 3)."""
    weights = np.tile(1 / (np.arange(groups) + 10), (users, 1))
    tastes = np.empty((users, len(_TASTES)), int)
    for rank in range(len(_TASTES)):
        tastes[:, rank] = _draw(rng, weights)
        weights[np.arange(users), tastes[:, rank]] = 0
    return tastes


def _draw(rng: np.random.Generator, weights: np.ndarray) -> np.ndarray:
    """One column of every row, with chances in proportion to its weights."""
    upto = np.cumsum(weights, axis=1)
    return (upto <= rng.random(len(weights))[:, None] * upto[:, -1:]).sum(axis=1)
