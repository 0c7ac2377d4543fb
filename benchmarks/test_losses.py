"""The losses at two sizes of the catalogue, beside their plain forms; all sizes: loss_report.py."""

import pytest
import torch
from loss_report import FORMS, POSITIONS, inputs


@pytest.fixture(scope="module", params=[10**3, 10**4])
def x(request):
    return inputs(request.param)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name.replace(", ", "-"))
def test_loss(benchmark, x, form):
    other = form._replace(plain=not form.plain)
    torch.testing.assert_close(form.compute(x), other.compute(x), rtol=1e-5, atol=0)
    benchmark.group = f"{len(x.vectors) - 1} items"
    benchmark.extra_info.update(
        op=f"{form.loss} ({form.sharing})",
        backend="reference" if form.plain else "ours",
        shape=f"P{POSITIONS}-{benchmark.group.replace(' ', '-')}",
        gflops=None,
        bytes=None,
        **{"pass": "forward+backward"},
    )
    benchmark(form.run, x)
