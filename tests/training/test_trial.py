"""How long training will take is told before it begins, and trying leaves no trace."""

import copy
import itertools

import pytest
import torch
from support.processes import INSTALLED
from support.runs import SMALL, run_command, small, train, write_log

from rka_fast.commands import main
from rka_fast.data.shards import Prepared
from rka_fast.models import MODELS
from rka_fast.training import lines, trial
from rka_fast.training.checkpoint import Checkpoint
from rka_fast.training.config import Config
from rka_fast.training.devices import make_accelerator
from rka_fast.training.lines import Speed
from rka_fast.training.metrics import Evaluation
from rka_fast.training.streaming import Streamed, catalogue_of

CASES = {
    **{model: ("--model", model) for model, made in MODELS.items() if made.trains},
    "sparse": ("--model", "sasrec", "--loss", "bce", "--sparse-adam"),
    "clipped": ("--model", "rksa", "--average-weights", "0.9", "--gradient-clip", "0.1"),
}


def state(checkpoint):
    """All tensors that a run goes on from."""
    kept = checkpoint.optimizer["state"] if checkpoint.optimizer else {}
    moments = {f"{n} {name}": x for n, of in kept.items() for name, x in of.items()}
    return {**checkpoint.model, **moments, **(checkpoint.average or {})}


def same(found, expected):
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def outcome(trainer, told):
    """The metrics and the weights of a run."""
    trainer.quiet, trainer.tried = not told, told
    trainer.run()
    checkpoints = [Checkpoint.load(path) for path in (trainer.folder.last, trainer.folder.best)]
    return trainer.folder.log.read_text(), [state(of) for of in checkpoints]


@pytest.mark.parametrize("case", CASES)
def test_a_run_has_the_bits_of_one_that_was_not_tried(trainer_for, case, capsys):
    """Begun and taken up again, with the moments that it had."""
    for epochs in "1", "2":
        flags = (*CASES[case], "--epochs", epochs)
        told, expected = (outcome(trainer_for(f"{name}", *flags), name) for name in (True, False))
        assert told[0] == expected[0] and len(told[0].splitlines()) >= 2
        for found, wanted in zip(told[1], expected[1], strict=True):
            assert same(found, wanted)
        shown = capsys.readouterr().out.splitlines()
        (line,) = (n for n, text in enumerate(shown) if text.startswith("speed: about "))
        assert shown[line + 1].startswith(f"epoch   {epochs}  loss ")


@pytest.mark.parametrize("case", CASES)
def test_trying_leaves_no_trace(trainer_for, case, capsys):
    trainer = trainer_for("run", *CASES[case], "--epochs", "3")
    for _ in range(2):  # without moments, and with them
        before = copy.deepcopy(
            [trainer.model.state_dict(), trainer.optimizer.state_dict(), trainer.average]
        )
        generator = torch.get_rng_state()
        trainer.optimizer.zero_grad()
        trainer._tell_speed()
        assert torch.equal(torch.get_rng_state(), generator)
        assert all(parameter.grad is None for parameter in trainer.model.parameters())
        assert same(trainer.model.state_dict(), before[0])
        moments = trainer.optimizer.state_dict()["state"]
        assert moments.keys() == before[1]["state"].keys()
        assert all(same(moments[number], of) for number, of in before[1]["state"].items())
        if trainer.average is not None:
            assert same(trainer.average.state_dict(), before[2].state_dict())
        trainer._step([])
        trainer.progress.step += 1
    assert moments, "the second time there were some"


def test_a_shard_at_a_time_is_tried_too(tmp_path, capsys):
    log, data = write_log(tmp_path / "log"), tmp_path / "in"
    assert main(["prepare", str(log), "--out", str(data), "--shards", "3"]) == 0
    for name in "ab":
        assert train(data, tmp_path / name, "--stream", "--epochs", "2") == 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rka_fast.training.trainer.Trainer._tell_speed", lambda trainer: None)
            assert train(data, tmp_path / f"{name}0", "--stream", "--epochs", "2") == 0
        told = capsys.readouterr().out
        assert told.count("speed: about ") == 1 and told.count("epoch   2  loss") == 2
    for file in ("metrics.jsonl", "ranks.npz"):
        assert len({(tmp_path / run / file).read_bytes() for run in ("a", "a0")}) == 1, file


@pytest.mark.slow
def test_two_processes_try_together(tmp_path, monkeypatch):
    log = write_log(tmp_path / "log")
    flags = ("--data", log, *small("rksa"), "--epochs", "2")
    done = run_command("rka_fast.train", *flags, "--out", tmp_path / "told", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("speed: about ") == 1
    (tmp_path / "untold.py").write_text(
        "import sys\nfrom rka_fast.train import main\n"
        "from rka_fast.training.trainer import Trainer\n"
        "Trainer._tell_speed = lambda trainer: None\nsys.exit(main())\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{INSTALLED}")
    done = run_command("untold", *flags, "--out", tmp_path / "untold", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "speed: " not in done.stdout
    metrics = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("told", "untold")]
    assert metrics[0] == metrics[1] and '"valid"' in metrics[0]


def test_the_second_time_counts(monkeypatch):
    clock, done = iter([10.0, 17.0, 20.0, 22.5]), []
    monkeypatch.setattr(trial.time, "perf_counter", lambda: next(clock))
    assert trial.seconds_of(lambda: done.append(1), "cpu") == 2.5
    assert len(done) == 2


def test_another_device_is_waited_for(monkeypatch):
    order = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: order.append(device))
    assert trial.seconds_of(lambda: order.append("work"), "cuda:1") > 0
    assert order == ["work", "cuda:1"] * 2


def test_an_evaluation_of_shards_reads_them_again(tmp_path, monkeypatch):
    log, data = write_log(tmp_path / "log"), tmp_path / "in"
    assert main(["prepare", str(log), "--out", str(data), "--shards", "3"]) == 0
    of = Prepared.open(data)
    config = Config(data=str(data), model="sasrec", stream=True, **SMALL)
    parts = Streamed(config, of, catalogue_of(of), make_accelerator(config))
    clock = itertools.count(0.0, 0.5)  # half a second passes whenever it is looked at
    monkeypatch.setattr("rka_fast.training.streaming.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(Evaluation, "seconds", lambda self, model, device: 2.0)
    parts.loading = 7.0
    assert parts.evaluator.seconds(parts.model, "valid") == 7.0 + 3 * (0.5 + 2.0)  # 20 users each


def test_what_is_told():
    config = Config(model="sasrec", eval_every=2, data="x")
    speed = Speed(0.25, 40, 3.0)
    assert list(speed.lines(config, 8)) == [
        "speed: about 0.25 s a step, 10.0 s an epoch of 40 steps, 3.0 s an evaluation"
    ]
    assert list(Speed(0.25, 4000, None, 6.0).lines(config, 8)) == [
        "speed: about 0.25 s a step, 1,006.0 s an epoch of 4,000 steps"
    ]
    (line,) = Speed(1234.5, 4, None).lines(config, 1)
    assert line.startswith("speed: about 1,234 s a step, 4,938.0 s an epoch")
    (line,) = Speed(0.25, 40, 3.0, 1.0).lines(config, 8)
    assert line.endswith(", 11.0 s an epoch of 40 steps, 3.0 s an evaluation")


def test_what_takes_long_is_warned_of(monkeypatch):
    config = Config(model="sasrec", loss="ce", eval_every=2, data="x")
    speed = Speed(0.5, 4000, 400.0)  # 2,200 s an epoch with its half evaluation
    monkeypatch.setattr(lines, "LONG", 36 * 2200.0)
    assert len(list(speed.lines(config, 36))) == 1
    warned = list(speed.lines(config, 37))[1]
    assert warned.startswith("warning: 37 epochs may take 23 hours; --loss sampled_ce ")
    assert warned.endswith("; a lower --epochs or --patience ends sooner")
    assert "--loss" not in list(speed.lines(Config(model="sasrec", loss="bce", data="x"), 80))[1]
    evaluated = list(speed._replace(evaluation=5000.0).lines(config, 37))[1]
    assert "a higher --eval-every or a lower --eval-users" in evaluated
    assert "--loss" not in evaluated


def test_a_quiet_run_is_not_tried(trainer_for, capsys):
    trainer = trainer_for("run", "--model", "sasrec", "--epochs", "1")
    asked = []
    trainer._tell_speed = lambda: asked.append(1)
    trainer.run()
    assert not asked and "speed" not in capsys.readouterr().out
