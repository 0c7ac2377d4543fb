"""What the reports of losses and of a step's parts are made of."""

import loss_report
import pytest
import sparse_adam
import step_profile
import torch
from support.runs import write_log

from rka_fast.training.assemble import assemble, load_data
from rka_fast.training.config import Config


def test_a_form_that_does_not_fit_is_listed_with_its_bytes(monkeypatch):
    plain = loss_report.Form("ce", "none", plain=True)
    scores, vectors = 2048 * 10**6 * 4, 10**6 * 64 * 4
    assert plain.least_bytes(10**6) == 3 * scores + 2 * vectors
    assert plain._replace(plain=False).least_bytes(10**6) == 2 * vectors
    small = loss_report.inputs(50, sequences=2, negatives=3)
    monkeypatch.setattr(loss_report, "inputs", lambda items: small)
    found = loss_report.measure(10**6, loss_report.Flags(memory=1.0, rounds=1))
    assert set(found) == set(loss_report.FORMS) - {plain}
    line = next(x for x in loss_report.table({10**6: found}) if x.startswith("| ce, plain"))
    assert line == f"| ce, plain | does not fit: {(3 * scores + 2 * vectors) / 1e9:.1f} GB |"


@pytest.mark.parametrize("form", [f for f in loss_report.FORMS if f.plain], ids=lambda f: f.name)
def test_plain_forms_compute_the_same(form):
    x = loss_report.inputs(50, sequences=2, negatives=3)
    ours = form._replace(plain=False)
    torch.testing.assert_close(form.compute(x), ours.compute(x), rtol=1e-5, atol=0)


@pytest.mark.parametrize("sharing", ["none", "batch"])
@pytest.mark.parametrize("model", ["sasrec", "rksa"])
def test_parts_of_a_step_add_up(tmp_path, model, sharing):
    log = write_log(tmp_path / "log.txt")
    config = Config(
        data=str(log), model=model, loss="sampled_ce", shared_negatives=sharing,
        width=8, max_length=8, batch_size=16, negatives=4, device="cpu",
    )  # fmt: skip
    parts = assemble(config, load_data(config)[0])
    step = step_profile.Step(parts, config)
    found = step.measure(0)
    assert sum(found[name] for name in step_profile.PARTS) == pytest.approx(found["whole"])
    measured = [found[name] for name in ("data", "attention", "loss", "optimiser")]
    assert min(measured) > 0 and len(step.calls) >= config.blocks
    if model == "rksa":
        assert found["kernel loss"] > 0


def test_steps_of_both_optimisers_are_measured():
    found = sparse_adam.measure(50, sparse_adam.Flags(width=4, steps=1))
    assert found.keys() == {False, True}
    for ((whole, optimiser),) in found.values():
        assert whole > optimiser > 0
