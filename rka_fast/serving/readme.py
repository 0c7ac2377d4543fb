"""The README of an export."""

from __future__ import annotations

import torch

from rka_fast.models import MODELS
from rka_fast.serving.folder import GRAPHS
from rka_fast.training.config import Config

_KEPT = "The run recommends what somebody had as well: all 0."

_TEXT = """# {title}

A recommender that runs without rka_fast: {items:,} items, histories of the last {length}.

| file | what |
|---|---|
| `{graph}` | the graph from histories to the best items, {needs} |
| `items.json` | ids of the items with the numbers 1, 2, … |
| `vectors.npy` | their output embeddings, float32: neighbours by cosine are similar items |
| `export.json` | settings, and how often each item was had in training |

Inputs of the graph, int64:

- `history` (people, n): numbers of the items that somebody had, oldest first, n from 1 to {length}.
  Shorter histories have 0 in front; each needs an item.
- `hidden` (people, h): numbers that are not to be recommended, 0 to fill.
  {hide}
- `top`, a single number: how many items, up to {items:,}.

Outputs: `scores`, float32 (people, top), the best first, and `items`, int64, their numbers. What is
hidden has the score -inf and stands last. A user of the training data is served like anybody else,
by what they had.

```python
import json

import numpy as np
{imports}

with open("items.json", encoding="utf-8") as file:
    ids = json.load(file)
number = {{item: i for i, item in enumerate(ids, start=1)}}
{load}


def recommend(histories, top=10):
    \"\"\"For each list of ids, oldest first: (id, score), best first; [] if none is known.\"\"\"
    rows = [[number[item] for item in history if item in number] for history in histories]
    longest = max(1, *map(len, rows))
    history = np.zeros((len(rows), min(longest, {length})), np.int64)
    hidden = np.zeros((len(rows), longest), np.int64)
    for row, had in enumerate(rows):
        last = had[-{length}:]
        history[row, history.shape[1] - len(last) :] = last
        {hidden}
    {run}
    return [
        [(ids[i - 1], float(x)) for i, x in zip(*row) if had and np.isfinite(x)]
        for had, *row in zip(rows, items, scores)
    ]


print(recommend([{example}]))
```
"""

_ONNX = {
    "needs": "for ONNX Runtime",
    "imports": "import onnxruntime",
    "load": (
        'session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])'
    ),
    "run": (
        'inputs = {"history": history, "hidden": hidden, "top": np.array(top)}\n'
        "    scores, items = session.run(None, inputs)"
    ),
}
_AOTI = {
    "needs": f"for PyTorch {torch.__version__} and the kind of processor that it was exported on",
    "imports": "import torch",
    "load": 'graph = torch._inductor.aoti_load_package("model.pt2")',
    "run": (
        "inputs = (torch.from_numpy(history), torch.from_numpy(hidden), torch.tensor(top))\n"
        "    scores, items = (x.numpy() for x in graph(*inputs))"
    ),
}


def text(config: Config, format: str, length: int, items: list[str]) -> str:
    """The page, in Markdown; its Python runs in the folder.

    length: of the histories. items: the ids.
    """
    hide = config.seen == "hide"
    return _TEXT.format(
        title=MODELS[config.model].title,
        graph=GRAPHS[format],
        length=length,
        items=len(items),
        example=items[:2],
        hide="Give what somebody had, all of it: the run hides it." if hide else _KEPT,
        hidden="hidden[row, : len(had)] = had" if hide else "# hidden[row, : len(had)] = had",
        **(_ONNX if format == "onnx" else _AOTI),
    )
