"""Noise against published vectors, Python's integers and the laws it claims."""

import pytest
import scipy.stats
import torch
from support import literal

from rka_fast.ops.reference import philox

# Known-answer tests of Random123: counter, key, output of philox4x32-10.
PUBLISHED = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_published_vectors(counter, key, expected):
    words = philox.philox4x32(key, tuple(torch.tensor(c) for c in counter))
    assert tuple(int(w) for w in words) == expected
    assert literal.philox(key, counter) == expected


@pytest.mark.parametrize("seed", [0, 1, -1, 2**62 + 12345, -(2**63)])
def test_words_follow_the_indices(seed):
    words = philox.words(torch.tensor(seed), batch=2, heads=3, rows=range(2), groups=2, stream=1)
    unsigned = seed % 2**64
    for b, h, t, g in [(0, 0, 0, 0), (1, 2, 1, 1), (0, 2, 1, 0)]:
        expected = literal.philox((unsigned % 2**32, unsigned >> 32), (g, t, b * 3 + h, 1))
        assert tuple(words[b, h, t, g].tolist()) == expected


def test_normals_by_hand():
    noise = philox.normals(torch.tensor(77), 1, 2, range(3), 6, torch.float64)
    for h, t, j in [(0, 0, 0), (1, 2, 5), (0, 1, 3), (1, 0, 2)]:
        assert noise[0, h, t, j].item() == pytest.approx(literal.normal(77, j, t, h, 0), abs=1e-12)


def test_uniform_reaches_neither_end():
    word = torch.tensor([0, 2**31 - 1, 2**31, 2**32 - 1])
    u = philox.uniform(word, torch.float64)
    assert u.min() == 0.0 and u.max() < 1.0
    assert u[0] == u[3] and u[1] == u[2]  # bits and their complement fold together


def test_the_noise_is_normal_and_uncorrelated():
    draws = philox.normals(torch.tensor(5), 4, 2, range(500), 8, torch.float64).reshape(-1, 8)
    assert scipy.stats.kstest(draws.flatten().numpy(), "norm").pvalue > 1e-3
    correlation = torch.corrcoef(draws.T) - torch.eye(8, dtype=torch.float64)
    assert correlation.abs().max() < 5 / len(draws) ** 0.5


def test_the_layout_does_not_depend_on_the_extent():
    small = philox.normals(torch.tensor(9), 1, 2, range(3), 5, torch.float32)
    large = philox.normals(torch.tensor(9), 3, 2, range(7), 9, torch.float32)
    assert torch.equal(small, large[:1, :, :3, :5])
