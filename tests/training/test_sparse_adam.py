"""`--sparse-adam`: lazy Adam of the tables, Adam of the rest, and their gradients."""

import math

import numpy as np
import pytest
import torch
from support.runs import train
from support.trainers import lines, stopped, without_seconds

from rka_fast.train import main
from rka_fast.training.checkpoint import Checkpoint
from rka_fast.training.optimiser import RowAdam

SAMPLED = ("--loss", "sampled_ce", "--negatives", "3")
FLAGS = ("--model", "sasrec", "--sparse-adam", *SAMPLED)


def weights(*shape):
    return torch.nn.Parameter(torch.randn(*shape, dtype=torch.float64))


def with_duplicates(gradient):
    """The gradient as a sparse tensor: rows of 0 too, and each row in two parts."""
    rows = torch.arange(len(gradient)).repeat(2)
    parts = torch.cat((0.25 * gradient, 0.75 * gradient))
    return torch.sparse_coo_tensor(rows[None], parts, gradient.shape, check_invariants=True)


@pytest.mark.parametrize("form", [lambda gradient: gradient.clone(), with_duplicates])
def test_it_is_lazy_adam_as_written_down(form):
    torch.manual_seed(0)
    table, other = weights(7, 3), weights(4)
    optimizer = RowAdam([table], [other], 0.1)
    expected = {"table": table.detach().numpy().copy(), "other": other.detach().numpy().copy()}
    moments = {name: [np.zeros_like(x), np.zeros_like(x)] for name, x in expected.items()}
    for t, rate in enumerate((0.1, 0.2, 0.05, 0.1, 0.3), start=1):
        gradients = {"table": torch.randn(7, 3).double(), "other": torch.randn(4).double()}
        gradients["table"][torch.randperm(7)[:4]] = 0.0
        gradients["table"][1, 2] = 0.0  # the row moves all the same
        before = table.detach().clone()
        table.grad, other.grad = form(gradients["table"]), gradients["other"].clone()
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        for name, gradient in gradients.items():
            g, (m, v) = gradient.numpy(), moments[name]
            moved = [i for i in range(len(g)) if np.any(g[i] != 0) or name == "other"]
            first, second = 1 - 0.9**t, 1 - 0.98**t
            for i in moved:
                m[i] = 0.9 * m[i] + 0.1 * g[i]
                v[i] = 0.98 * v[i] + 0.02 * g[i] ** 2
                small = 1e-8 / (math.sqrt(second) if name == "table" else 1)
                size = np.sqrt(v[i] / second) + small
                expected[name][i] -= rate * m[i] / first / size
        still = (gradients["table"] == 0).all(dim=1)
        assert 3 <= still.sum() <= 5 and torch.equal(table[still], before[still])
        np.testing.assert_allclose(table.detach(), expected["table"], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(other.detach(), expected["other"], rtol=1e-12, atol=1e-14)
    state = optimizer.state[table]
    np.testing.assert_allclose(state["exp_avg"], moments["table"][0], rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(state["exp_avg_sq"], moments["table"][1], rtol=1e-12, atol=1e-16)


def test_where_every_row_moves_it_is_adam():
    torch.manual_seed(0)
    table, other = weights(5, 3), weights(4)
    plain = torch.nn.Parameter(table.detach().clone())
    ours = RowAdam([table], [other], 0.1)
    adam = torch.optim.AdamW([plain], lr=0.1, betas=(0.9, 0.98), weight_decay=0.0)
    steps = 20
    for _ in range(steps):
        gradient = (0.5 + 0.5 * torch.rand(5, 3).double()) * torch.randn(5, 3).double().sign()
        table.grad, plain.grad, other.grad = gradient.clone(), gradient, torch.ones(4).double()
        ours.step()
        adam.step()
    # eps is added before the bias of v is corrected: at most eps / sqrt(1 - .98) instead of eps,
    # beside a root of v of at least .5; a step is at most 2 rates long.
    bound = steps * 2 * 0.1 * (1e-8 / math.sqrt(0.02)) / 0.5
    difference = (table - plain).abs().max().item()
    assert difference <= bound
    assert (plain - plain.detach().mean()).abs().max() > 1e5 * bound


CASES = {
    "sasrec --loss bce": (True,),
    "sasrec --loss gbce --negatives 3": (True,),
    "sasrec --loss sampled_ce --negatives 3 --no-tied": (True, True),
    "sasrec --loss sampled_ce --negatives 3 --shared-negatives sequence": (True,),
    "sasrec --loss sampled_ce --negatives 3 --shared-negatives batch": (True,),
    "sasrec --loss bce --temperature .2": (False,),
    "rksa --loss bce --kernels cooccurrence,item,user --kernel-weight .1": (True, True),
    "gru4rec --loss bce": (True, True),
    "narm --loss bce": (True,),
    "hcrnn --loss bce": (True,),
    "attrec": (True, False, False),
}


@pytest.mark.parametrize("case", CASES)
def test_sparse_gradients_are_the_dense_ones(trainer_for, case):
    trainer = trainer_for("run", "--model", *case.split(), "--sparse-adam")
    model, batch = trainer.model, trainer.parts.batch(0, trainer.steps_per_epoch)[0]
    tables = [model.get_parameter(name) for name in model.tables()]

    def gradients():
        model.zero_grad()
        torch.manual_seed(0)  # of the dropout
        model.training_loss(batch, trainer.config.loss)["loss"].backward()
        return [table.grad for table in tables]

    sparse = gradients()
    assert tuple(gradient.is_sparse for gradient in sparse) == CASES[case]
    model.use_sparse_gradients(False)
    dense = gradients()
    for found, wanted in zip(sparse, dense, strict=True):
        found = found.to_dense()
        # Sums of at most 16 users x 8 positions x 5 vectors in another order, and of no other rows.
        terms = 16 * 8 * 5
        bound = terms * torch.finfo(torch.float32).eps * wanted.abs().max().item()
        torch.testing.assert_close(found, wanted, rtol=0, atol=bound)
        assert torch.equal(found.any(dim=1), wanted.any(dim=1)) and wanted.any()
        assert not wanted.any(dim=1).all()


def test_a_step_moves_what_it_reads_and_nothing_else(trainer_for):
    trainer = trainer_for("run", *FLAGS)
    table, others = trainer.model.items.weight, trainer.model.blocks[0].feed_forward.inner.weight
    seen = []
    for step in range(2):
        batch = trainer.parts.batch(step, trainer.steps_per_epoch)[0]
        wanted = batch.targets > 0
        read = {0, *batch.items.unique().tolist(), *batch.targets.unique().tolist()}
        read |= set(batch.negatives[wanted].unique().tolist())
        before = table.detach().clone(), others.detach().clone()
        trainer._step([])
        trainer.progress.step += 1
        moved = (table != before[0]).any(dim=1)
        assert {*moved.nonzero()[:, 0].tolist()} <= read and not torch.equal(others, before[1])
        seen.append(moved)
    assert (seen[0] & ~seen[1]).any()  # Adam would have moved them again
    plain = trainer_for("plain", *(flag for flag in FLAGS if flag != "--sparse-adam"))
    for _ in range(2):
        before = plain.model.items.weight.detach().clone()
        plain._step([])
        plain.progress.step += 1
    moved = (plain.model.items.weight != before).any(dim=1)
    assert moved[seen[0] & ~seen[1]].all()


def test_clipping_takes_sparse_gradients(trainer_for):
    def norm(name, *flags):
        trainer = trainer_for(name, *FLAGS, "--dropout", "0", *flags)
        trainer._step([])
        gradients = [p.grad.to_dense() for p in trainer.model.parameters()]
        return math.sqrt(sum(gradient.square().sum() for gradient in gradients)), gradients

    whole, gradients = norm("plain")
    assert norm("long", "--gradient-clip", f"{2 * whole}")[0] == whole
    clipped, scaled = norm("clipped", "--gradient-clip", f"{whole / 4}")
    assert clipped == pytest.approx(whole / 4, rel=1e-4)
    for found, wanted in zip(scaled, gradients, strict=True):
        torch.testing.assert_close(found, wanted / 4, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("model", ["sasrec", "rksa"])
def test_it_goes_on_after_a_stop(trainer_for, model):
    flags = (
        "--model", model, "--sparse-adam", *SAMPLED, "--epochs", "3", "--decay", "cosine",
        "--warm-up", "5", "--average-weights", ".9", "--gradient-clip", ".5",
    )  # fmt: skip
    whole = trainer_for("whole", *flags)
    expected = whole.run()
    parts = stopped(trainer_for, (3, 6), *flags)
    assert without_seconds(parts.run()) == without_seconds(expected)
    assert lines(parts, "valid") == lines(whole, "valid")
    one, two = (Checkpoint.load(trainer.folder.last) for trainer in (whole, parts))
    for name, tensor in one.model.items():
        assert torch.equal(tensor, two.model[name])
    assert len(one.optimizer["state"]) == len(list(whole.model.parameters()))
    for number, state in one.optimizer["state"].items():
        assert state["step"] == whole.progress.step
        for name, tensor in state.items():
            assert torch.equal(tensor, two.optimizer["state"][number][name])


def test_it_is_said(log, tmp_path, capsys):
    assert train(log, tmp_path / "run", *FLAGS, "--epochs", "1") == 0
    assert "lazy Adam of the item and user tables (--sparse-adam)" in capsys.readouterr().out
    assert train(log, tmp_path / "plain", *FLAGS[:2], "--epochs", "1") == 0
    assert "lazy Adam" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--model", "sasrec", "--weight-decay", "0.1"),
            ("sparse_adam moves", "weight_decay 0.1", "leave one of"),
        ),
        (
            ("--model", "sasrec", "--loss", "ce"),
            ("sparse_adam has no meaning with loss 'ce'", "or 'sampled_ce'"),
        ),
        (("--model", "pop"), ("--sparse-adam is not used by model 'pop'",)),
    ],
)
def test_what_it_cannot_go_with_is_refused(log, tmp_path, capsys, flags, words):
    loss = () if {"pop", "ce"} & {*flags} else SAMPLED
    assert train(log, tmp_path / "run", *flags, *loss, "--sparse-adam") == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words)
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_its_optimiser(log, tmp_path, capsys):
    assert train(log, tmp_path / "run", *FLAGS, "--epochs", "1") == 0
    resume = ["--resume", str(tmp_path / "run"), "--epochs", "2"]
    assert main([*resume, "--no-sparse-adam"]) == 2
    assert "sparse_adam cannot change on --resume" in capsys.readouterr().err
    assert main(resume) == 0
