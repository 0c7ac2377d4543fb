"""Requests that are scored together: how many, by which engine, and what becomes of failures."""

import asyncio

import numpy as np
import pytest
from support.slow import slow

from rka_fast.serving.batching import Batching
from rka_fast.serving.engine import Asked, Listed, load


class Echo:
    """Lists what was asked for, and notes its batches."""

    def __init__(self, name: str = "echo"):
        self.name, self.batches = name, []

    def rank(self, asked):
        self.batches.append(len(asked))
        if any(of.top == 13 for of in asked):
            raise RuntimeError("thirteen")
        return [Listed(of.history, np.ones(len(of.history)), self.name) for of in asked]


def question(n: int, top: int = 1) -> Asked:
    return Asked(np.array([n]), np.array([]), top)


def run(most: int, wait: float, ask):
    """What `ask(batching)` returns, and the sizes that were told."""
    sizes: list[int] = []

    async def inside():
        async with Batching(most, wait, sizes.append) as batching:
            return await ask(batching)

    return asyncio.run(inside()), sizes


def test_what_arrives_together_is_one_batch_and_everybody_gets_their_own():
    engine = Echo()

    async def ask(batching):
        return await asyncio.gather(*(batching(engine, question(n)) for n in range(50)))

    found, sizes = run(16, 0.05, ask)
    assert [of.items.tolist() for of in found] == [[n] for n in range(50)]
    assert sizes == engine.batches == [16, 16, 16, 2]


def test_one_that_is_alone_does_not_wait_for_a_full_batch():
    engine = Echo()

    async def ask(batching):
        await batching(engine, question(1))
        await batching(engine, question(2))

    assert run(16, 0.001, ask)[1] == [1, 1]


def test_each_is_answered_by_the_engine_that_it_asked():
    old, new = Echo("old"), Echo("new")

    async def ask(batching):
        engines = [old, old, new, old, new]
        return await asyncio.gather(*(batching(of, question(n)) for n, of in enumerate(engines)))

    found, _ = run(16, 0.05, ask)
    assert [of.by for of in found] == ["old", "old", "new", "old", "new"]
    assert old.batches == [3] and new.batches == [2]


def test_a_failure_is_told_to_those_of_its_batch_and_the_next_goes_on():
    engine = Echo()

    async def ask(batching):
        together = [batching(engine, question(1, top=13)), batching(engine, question(2))]
        failed = await asyncio.gather(*together, return_exceptions=True)
        return failed, await batching(engine, question(3))

    (failed, after), _ = run(16, 0.01, ask)
    assert [str(of) for of in failed] == ["thirteen", "thirteen"]
    assert after.items.tolist() == [3]


def test_whoever_has_gone_is_not_scored():
    engine = Echo()

    async def ask(batching):
        gone = asyncio.create_task(batching(engine, question(1)))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        return await batching(engine, question(2))

    found, _ = run(16, 0.01, ask)
    assert found.items.tolist() == [2] and engine.batches == [1]


@pytest.mark.parametrize("source", ["rksa", "pop", slow("export")])
def test_everybody_gets_in_a_batch_what_they_get_alone(source, small_runs, exports):
    engine = load(exports("sasrec") if source == "export" else small_runs(source).folder)
    rng = np.random.default_rng(0)
    asked = [
        Asked(
            rng.integers(1, 131, rng.integers(0, 20)),
            np.unique(rng.integers(1, 131, rng.integers(0, 60))),
            int(rng.integers(1, 140)),
        )
        for _ in range(40)
    ]
    together = engine.rank(asked)
    for of, found in zip(asked, together, strict=True):
        (alone,) = engine.rank([of])
        assert len(found.items) == len(alone.items) == min(of.top, 130 - len(of.hidden))
        assert not set(found.items.tolist()) & set(of.hidden.tolist())
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
        assert found.by == alone.by == (engine.model if len(of.history) else "popularity")
