"""The operator's literal evaluation: loops over rows and keys on Python's and NumPy's numbers."""

import math

import numpy as np

from rka_fast.verification import bounds

KEY_BUMP = (0x9E3779B9, 0xBB67AE85)
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
ACTIVATIONS = {
    "identity": lambda x: x,
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "relu": lambda x: max(x, 0.0),
    "tanh": math.tanh,
}


def philox(key, counter):
    """Philox4x32-10 on Python's integers."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        p0, p1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 % 2**32, (p0 >> 32) ^ c3 ^ k1, p0 % 2**32
        k0, k1 = (k0 + KEY_BUMP[0]) % 2**32, (k1 + KEY_BUMP[1]) % 2**32
    return c0, c1, c2, c3


def uniform(word):
    signed = word - 2**32 if word >= 2**31 else word
    signed = -signed - 1 if signed < 0 else signed
    return float(np.float32(signed) * np.float32(4.6566127342e-10))


def normal(seed, column, row, sequence_head, stream):
    words = philox((seed % 2**32, seed >> 32), (column // 4, row, sequence_head, stream))
    first, second = words[column % 4 // 2 * 2 : column % 4 // 2 * 2 + 2]
    radius = math.sqrt(-2 * math.log(max(1e-7, uniform(first))))
    angle = 2 * math.pi * uniform(second)
    return radius * (math.sin(angle) if column % 2 else math.cos(angle))


def evaluate(
    inputs,
    allowed,
    present,
    mode,
    activation,
    seed,
    dropout=0.0,
    jitter=1e-4,
    scale=None,
    row_offset=0,
):
    """The operator in float64 loops: allowed (B, H, n, m), present (B, m) boolean arrays."""
    x = {name: leaf.detach().double().numpy() for name, leaf in bounds.leaves(inputs).items()}
    counts = None
    if "covariance" in inputs and inputs["covariance"].kernels.cooccurrence is not None:
        counts = inputs["covariance"].kernels.cooccurrence.double().numpy()
    query = x["location.query"]
    batch, heads, rows, width = query.shape
    m = x["value"].shape[2]
    f = ACTIVATIONS[activation]
    output = np.zeros((batch, heads, rows, x["value"].shape[3]))
    for b in range(batch):
        k = lower = None
        if mode != "location":
            k = correlation(x, counts, b, present[b], jitter)
            lower = factor(k, jitter)
        for h in range(heads):
            for t in range(rows):
                seen = np.flatnonzero(allowed[b, h, t]).tolist()
                if len(seen) == 0:
                    continue
                z = np.zeros(m)
                for j in seen:
                    factor_of_scores = 1 / math.sqrt(width) if scale is None else scale
                    z[j] = f(query[b, h, t] @ x["location.key"][b, h, j] * factor_of_scores)
                    if "location.times.table" in x:
                        table = x["location.times.table"]
                        z[j] += table[h % len(table), bucket(inputs["location"].times, b, t, j)]
                    if "location.bias" in x:
                        bias = np.broadcast_to(x["location.bias"], (batch, heads, rows, m))
                        z[j] += bias[b, h, t, j]
                if mode != "location":
                    s = _standard(
                        x, counts, b, h, t, seen, k, lower, mode, f, seed, heads, row_offset
                    )
                    for j in seen:
                        raw = x["covariance.query"][b, h, t] @ x["covariance.key"][b, h, j]
                        raw = raw / math.sqrt(x["covariance.query"].shape[-1])
                        if "covariance.bias" in x:
                            raw += x["covariance.bias"][h]
                        z[j] += math.log1p(math.exp(raw)) * s[j]
                weights = np.exp(z[seen] - z[seen].max())
                weights /= weights.sum()
                for w, j in zip(weights, seen, strict=True):
                    if dropout:
                        counter = (j // 4, t + row_offset, b * heads + h, 2)
                        words = philox((seed % 2**32, seed >> 32), counter)
                        w *= (uniform(words[j % 4]) >= dropout) / (1 - dropout)
                    output[b, h, t] += w * x["value"][b, h, j]
    return output


def factor(k, jitter):
    """Lower Cholesky factor, entry by entry; a pivot that is not positive is set, its column ends.

    NumPy's where all pivots are positive.
    """
    n = len(k)
    lower = np.zeros((n, n))
    for j in range(n):
        pivot = k[j, j] - lower[j, :j] @ lower[j, :j]
        if pivot <= 0:
            lower[j, j] = math.sqrt(jitter / (1 + jitter))
            continue
        lower[j, j] = math.sqrt(pivot)
        for i in range(j + 1, n):
            lower[i, j] = (k[i, j] - lower[i, :j] @ lower[j, :j]) / lower[j, j]
    return lower


def _cosine(a, b):
    norm = math.sqrt((a @ a) * (b @ b))
    return a @ b / norm if norm > 0 else 0.0


def correlation(x, counts, b, present, jitter):
    features = x["covariance.kernels.features"][b]
    gamma = x["covariance.kernels.concentration"]
    r = x["covariance.kernels.mixture"][b].copy()
    gate = x.get("covariance.kernels.gate")
    r[0] *= counts is not None
    r[2] *= gate is not None
    r /= r.sum()
    m = len(features)
    k = np.eye(m)
    for i in range(m):
        for j in range(m):
            if i == j or not (present[i] and present[j]):
                continue
            value = r[1] * math.exp(2 * gamma[0] * (_cosine(features[i], features[j]) - 1))
            if counts is not None and counts[b, i, i] * counts[b, j, j] > 0:
                c = counts[b]
                value += r[0] * c[i, j] / math.sqrt(c[i, i] * c[j, j])
            if gate is not None:
                cosine = _cosine(features[i] * gate[b], features[j] * gate[b])
                value += r[2] * math.exp(2 * gamma[1] * (cosine - 1))
            k[i, j] = value / (1 + jitter)
    return k


def prior(counts, t, seen):
    """alpha-hat over its maximum for one row, from the sum over allowed k of c_jk c_kt."""
    m = len(counts)
    c = counts.astype(float).copy()
    for k in seen:
        others = [counts[k, l] for l in seen if l != k]  # noqa: E741
        c[k, k] = sum(others) / max(len(others), 1)
    row = np.zeros(m)
    for j in seen:
        row[j] = sum(c[j, k] * c[k, t] for k in seen)
    return row / row.max() if row.max() > 0 else np.zeros(m)


def bucket(times, b, t, j):
    """Of the seconds between a row and a key, from the logarithm itself."""
    seconds = abs(int(times.rows[b, t]) - int(times.keys[b, j]))
    return min(math.floor(math.log(max(1, seconds)) / 0.301), 128)


def _standard(x, counts, b, h, t, seen, k, lower, mode, f, seed, heads, row_offset):
    m = len(k)
    alpha = np.zeros(m)
    if "shape.query" in x:
        for j in seen:
            raw = x["shape.query"][b, h, t] @ x["shape.key"][b, h, j]
            alpha[j] = f(raw / math.sqrt(x["shape.query"].shape[-1]))
        if counts is not None:
            alpha *= prior(counts[b], t + row_offset, seen)
    delta = k @ alpha / math.sqrt(1 + alpha @ k @ alpha)
    if mode == "mean":
        return delta * math.sqrt(2 / math.pi)
    row = t + row_offset
    noise = np.array([normal(seed, j, row, b * heads + h, 0) for j in range(m)])
    logits = lower @ noise
    skew = normal(seed, 0, row, b * heads + h, 1)
    half = (alpha @ logits + skew) / math.sqrt(1 + alpha @ k @ alpha)
    if "shape.query" not in x:
        return logits
    return (logits - delta * half) + delta * abs(half)
