"""The operator's tests run over every backend that can run here, and over the emulation of CUDA.

`backend` is each of them; `compared` is each but the reference, with which they are compared.
With TRITON_INTERPRET=1 both are the Triton backend alone, interpreted on the CPU; the others, and
tests that run over no backend, have the ordinary process. `--subject NAME` is that one alone. The
emulation is slow: it is compiled first.
"""

import pytest
import torch
from support.emulation import EMULATIONS
from support.subjects import Subject, subjects

from rka_fast.ops.backends import BACKENDS
from rka_fast.ops.triton import interpreted

FIXTURES = ("backend", "compared")


def pytest_generate_tests(metafunc):
    for fixture in set(FIXTURES) & set(metafunc.fixturenames):
        found = chosen(metafunc.config.getoption("subject"))
        if fixture == "compared":
            found = [subject for subject in found if subject.name != "reference"]
        metafunc.parametrize(
            fixture,
            [pytest.param(s, id=s.name, marks=_marks(s)) for s in found],
            indirect=True,
        )


def _marks(subject: Subject):
    return [pytest.mark.slow] if subject.name in EMULATIONS else []


def chosen(name: str | None) -> list[Subject]:
    if interpreted():
        every = subjects(["triton"])
    else:
        every = subjects(BACKENDS) + [Subject(n, dtype=torch.float32) for n in EMULATIONS]
    found = [subject for subject in every if name in (None, subject.name)]
    if not found:
        raise pytest.UsageError(f"{name or 'triton'} cannot run here")
    return found


def pytest_collection_modifyitems(config, items):
    here = config.rootpath / "tests" / "ops"
    if interpreted():
        other = [
            i for i in items if here in i.path.parents and not set(FIXTURES) & set(i.fixturenames)
        ]
        config.hook.pytest_deselected(items=other)
        items[:] = [item for item in items if item not in set(other)]


@pytest.fixture
def backend(request, monkeypatch) -> Subject:
    if request.param.name in EMULATIONS:
        monkeypatch.setitem(BACKENDS, request.param.name, EMULATIONS[request.param.name])
    return request.param


compared = backend
