"""The optimiser's settings: decay, clipping, the learning rate, the average of the weights."""

import math
import os
import signal

import pytest
import torch
from support.runs import train
from support.trainers import break_at, lines, stopped, without_seconds

from rka_fast.errors import Interrupted
from rka_fast.run import Run
from rka_fast.train import main
from rka_fast.training.checkpoint import Checkpoint


def one_step(trainer):
    """The weights before and after a step, and the norm of the gradient that it used."""
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer._step([])
    after = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    squares = sum(parameter.grad.square().sum() for parameter in trainer.model.parameters())
    return before, after, math.sqrt(squares)


def test_what_the_settings_of_the_optimiser_do(trainer_for):
    flags = ("--model", "sasrec", "--dropout", "0")
    before, plain, norm = one_step(trainer_for("plain", *flags))
    _, decayed, _ = one_step(trainer_for("decayed", *flags, "--weight-decay", "0.5"))
    for start, free, held in zip(before, plain, decayed, strict=True):
        torch.testing.assert_close(held, free - 1e-3 * 0.5 * start, rtol=1e-5, atol=1e-7)
    assert one_step(trainer_for("long", *flags, "--gradient-clip", f"{2 * norm}"))[2] == norm
    clip = norm / 4
    clipped = one_step(trainer_for("clipped", *flags, "--gradient-clip", f"{clip}"))[2]
    assert clipped == pytest.approx(clip, rel=1e-4)
    _, slow, _ = one_step(trainer_for("slow", *flags, "--warm-up", "4"))
    for start, free, warmed in zip(before, plain, slow, strict=True):
        torch.testing.assert_close(warmed - start, (free - start) / 4, rtol=1e-3, atol=1e-7)


def test_warming_up_goes_on_after_a_stop(trainer_for):
    flags = ("--model", "sasrec", "--warm-up", "7", "--weight-decay", "0.1", "--epochs", "3")
    expected = trainer_for("whole", *flags).run()
    parts = trainer_for("parts", *flags)
    break_at(parts, 5, lambda loss: os.kill(os.getpid(), signal.SIGTERM) or loss)
    with pytest.raises(Interrupted):
        parts.run()
    assert without_seconds(trainer_for("parts", *flags).run()) == without_seconds(expected)


def test_the_learning_rate_over_the_steps(trainer_for):
    flags = ("--model", "sasrec", "--learning-rate", "0.5", "--epochs", "3")  # of 4 steps
    linear = [0.125, 0.25, 0.375, 0.5, 0.5, 0.4375, 0.375, 0.3125, 0.25, 0.1875, 0.125, 0.0625]
    cosine = [0.25 + 0.25 * math.cos(math.pi * t / 12) for t in range(12)]
    expected = {
        "--decay linear --warm-up 4": linear,
        "--decay cosine": cosine,
        "--warm-up 4": [0.125, 0.25, 0.375] + [0.5] * 9,
        "--decay none": [0.5] * 12,
    }
    for number, (more, rates) in enumerate(expected.items()):
        trainer = trainer_for(f"run{number}", *flags, *more.split())
        found = []
        for _ in range(12):
            trainer._step([])
            trainer.progress.step += 1
            found += {group["lr"] for group in trainer.optimizer.param_groups}
        assert found == pytest.approx(rates, rel=1e-12), more


def test_the_average_of_the_weights_is_what_is_evaluated_and_kept(trainer_for):
    flags = ("--model", "sasrec", "--epochs", "3", "--learning-rate", ".01")
    trainer = trainer_for("run", *flags, "--average-weights", "0.5")
    trainer.folder.begin(trainer.config, trainer.split.sequences, trainer.description)
    history, evaluate, evaluated = [], trainer.evaluate, []
    trainer.optimizer.optimizer.register_step_post_hook(
        lambda *_: history.append([x.detach().double() for x in trainer.model.parameters()])
    )

    def remember(stage):
        evaluated.append([x.clone() for x in trainer.evaluated.parameters()])
        return evaluate(stage)

    trainer.evaluate = remember
    result = trainer.run()
    averages = []
    for t, weights in enumerate(history):  # the first update takes the weights as they are
        share = min(0.5, (1 + t) / (10 + t)) if t else 0.0
        last = averages[-1] if t else weights
        averages.append([share * a + (1 - share) * w for a, w in zip(last, weights, strict=True)])
    assert len(history) == 12 and len(evaluated) == 3
    for epoch, found in enumerate(evaluated, start=1):
        for actual, wanted, plain in zip(
            found, averages[4 * epoch - 1], history[4 * epoch - 1], strict=True
        ):
            torch.testing.assert_close(actual.double(), wanted, rtol=1e-5, atol=1e-7)
            assert plain.numel() < 8 or not torch.allclose(actual.double(), plain, rtol=1e-3)
    run = Run.load(trainer.folder.path)
    for kept, wanted in zip(
        run.model.parameters(), evaluated[result["best_epoch"] - 1], strict=True
    ):
        assert torch.equal(kept, wanted)
    assert run.evaluate("test") == result["test"]


def test_decay_and_average_go_on_after_a_stop(trainer_for):
    flags = ("--model", "sasrec", "--epochs", "3", "--decay", "cosine", "--average-weights", ".9")
    whole = trainer_for("whole", *flags)
    expected = whole.run()
    parts = stopped(trainer_for, (3, 6), *flags)
    assert parts.average.n_averaged == 6
    assert without_seconds(parts.run()) == without_seconds(expected)
    assert lines(parts, "valid") == lines(whole, "valid")
    files = [Checkpoint.load(trainer.folder.last) for trainer in (whole, parts)]
    for name, average in files[0].average.items():
        assert torch.equal(average, files[1].average[name])


def test_what_the_average_needs_is_refused_where_it_is_missing(log, tmp_path, capsys):
    flags = ("--model", "sasrec", "--epochs", "2", "--average-weights", ".9", "--decay", "linear")
    assert train(log, tmp_path / "run", *flags) == 0
    last = tmp_path / "run" / "last.safetensors"
    checkpoint = Checkpoint.load(last)
    assert main(["--resume", str(tmp_path / "run"), "--epochs", "3"]) == 2
    error = capsys.readouterr().err
    assert "epochs cannot change on --resume: the run has 2, by which the learning rate" in error
    checkpoint.average = None
    checkpoint.save(last)
    assert main(["--resume", str(tmp_path / "run")]) == 2
    assert "last.safetensors has no average of the weights" in capsys.readouterr().err
