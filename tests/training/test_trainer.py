import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.processes import INSTALLED
from support.trainers import break_at, lines, without_seconds

from rka_fast.data.batches import Batcher
from rka_fast.errors import ConfigError, Interrupted, TrainingError
from rka_fast.models import MODELS
from rka_fast.train import main
from rka_fast.training.checkpoint import Checkpoint
from rka_fast.training.config import Config
from rka_fast.training.devices import make_accelerator, shard
from rka_fast.training.evaluator import Evaluator
from rka_fast.training.metrics_log import read_lines, truncate
from rka_fast.training.run_folder import RunFolder


@pytest.mark.parametrize("model", ["rksa", "sasrec"])
def test_stopped_and_resumed_equals_uninterrupted(trainer_for, model):
    whole = trainer_for("whole", "--model", model, "--epochs", "3")
    expected = whole.run()

    def interrupt(parts):
        os.kill(os.getpid(), signal.SIGINT)
        return parts

    for step in (3, 6):  # inside the first epoch of 4 steps, and inside the second
        trainer = trainer_for("parts", "--model", model, "--epochs", "3")
        break_at(trainer, step, interrupt)
        with pytest.raises(Interrupted, match=f"after step {step} .*--resume .*parts"):
            trainer.run()
    trainer = trainer_for("parts", "--model", model, "--epochs", "3")
    assert trainer.progress.step == 6
    result = trainer.run()
    assert lines(trainer, "loss") == lines(whole, "loss")
    assert [line["step"] for line in lines(whole, "loss")] == list(range(1, 13))
    assert lines(trainer, "valid") == lines(whole, "valid")
    assert without_seconds(result) == without_seconds(expected)


@pytest.mark.parametrize(("select", "best"), [("sampled", 2), ("full", 3)])
def test_the_best_epoch_is_of_the_ranking_that_selects(trainer_for, select, best):
    trainer = trainer_for("run", "--model", "sasrec", "--epochs", "4", "--select", select)
    rankings = {"sampled": [0.2, 0.4, 0.3, 0.1], "full": [0.02, 0.01, 0.04, 0.03]}
    trainer.evaluate = lambda stage: {
        ranking: {"ndcg@10": of_epochs[trainer.epoch - 1]}
        for ranking, of_epochs in rankings.items()
    }
    assert trainer.run()["best_epoch"] == best
    assert Checkpoint.load(trainer.folder.best).meta["progress"]["step"] == best * 4


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(trainer_for):
    trainer = trainer_for("nan", "--model", "sasrec", "--epochs", "3", "--save-every", "5")
    break_at(trainer, 7, lambda parts: {**parts, "loss": parts["loss"] * torch.nan})
    with pytest.raises(TrainingError) as error:
        trainer.run()
    message = str(error.value)
    assert "the loss is nan at step 7 (epoch 2)" in message
    assert str(trainer.folder.last) in message and "smaller learning_rate" in message
    checkpoint = Checkpoint.load(trainer.folder.last)
    assert checkpoint.meta["progress"]["step"] == 5
    assert all(tensor.isfinite().all() for tensor in checkpoint.model.values())


def test_weights_that_are_not_finite_are_not_saved(trainer_for):
    trainer = trainer_for("inf", "--model", "sasrec", "--epochs", "2")

    def poison(parts):  # the loss is fine, its gradient is not
        bad = next(trainer.model.parameters()).sum() * 0
        return {**parts, "loss": parts["loss"] + torch.sqrt(bad)}

    break_at(trainer, 8, poison)
    with pytest.raises(TrainingError, match="weights are not finite after step 8"):
        trainer.run()
    assert Checkpoint.load(trainer.folder.last).meta["progress"]["step"] == 4


def test_selection_is_by_validation_and_patience_stops(trainer_for, monkeypatch):
    scores = iter([0.1, 0.3, 0.2, 0.2, 0.9])
    trainer = trainer_for("patience", "--model", "sasrec", "--epochs", "5", "--patience", "2")
    evaluate, weights = trainer.evaluate, []

    def scripted(stage):
        metrics = evaluate(stage)
        if stage == "valid" and not trainer.finished:
            metrics["sampled"]["ndcg@10"] = next(scores)
            weights.append(
                {name: value.clone() for name, value in trainer.model.state_dict().items()}
            )
        return metrics

    monkeypatch.setattr(trainer, "evaluate", scripted)
    result = trainer.run()
    assert result["best_epoch"] == 2 and trainer.epoch == 4 and next(scores) == 0.9
    trainer.model.load_state_dict(weights[1])
    assert result["test"] == evaluate("test")


def test_popularity_needs_no_training(trainer_for, log):
    result = trainer_for("pop", "--model", "pop").run()
    assert result["test"] == result["popularity"]["test"]
    assert (
        trainer_for("sasrec", "--model", "sasrec", "--epochs", "1").run()["popularity"]
        == result["popularity"]
    )


def test_popularity_is_evaluated_once(trainer_for, monkeypatch):
    """A finished run keeps its scores, a longer one too; damaged ones are found again, the same."""
    flags = ("--model", "sasrec", "--epochs")
    whole = trainer_for("once", *flags, "1").run()

    def never(evaluator):
        raise AssertionError("evaluated again")

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "popularity", never)
        again = trainer_for("once", *flags, "1").run()
        longer = trainer_for("once", *flags, "2").run()
    assert again["test"] == whole["test"] and longer["best_epoch"] <= 2
    assert again["popularity"] == longer["popularity"] == whole["popularity"]
    trainer = trainer_for("once", *flags, "2")
    damaged = trainer.folder.result.read_text().replace('"popularity"', '"popular"')
    trainer.folder.result.write_text(damaged)
    assert trainer_for("once", *flags, "2").run()["popularity"] == whole["popularity"]


def test_what_was_logged_after_the_checkpoint_is_dropped(tmp_path):
    folder = RunFolder(tmp_path)
    kept = [
        {"step": 1, "loss": 0.1},
        {"step": 2, "loss": 1 / 3},
        {"step": 2, "epoch": 1, "valid": {}},
    ]
    cut = json.dumps({"step": 3, "loss": 0.5}) + '\n{"step": 4, "lo'
    folder.log.write_text("".join(json.dumps(line) + "\n" for line in kept) + cut)
    truncate(folder.log, 2)
    assert read_lines(folder.log) == kept


@pytest.mark.parametrize("loss", ["ce", "sampled_ce --shared-negatives batch"])
@pytest.mark.parametrize("users", [16, 5, 1])
def test_weighted_shards_average_to_the_gradient_of_the_whole_batch(trainer_for, users, loss):
    flags = f"--model sasrec --dropout 0 --loss {loss}"
    trainer = trainer_for("shards", *flags.split())
    batch = trainer.parts.batcher.training(trainer.parts.batcher.epoch_order(0)[:users], 0)

    def gradients(part, weight):
        trainer.model.zero_grad()
        (weight * trainer.model.training_loss(part, trainer.config.loss)["loss"]).backward()
        return [parameter.grad.clone() for parameter in trainer.model.parameters()]

    parts = [gradients(*shard(batch, rank, 3)) for rank in range(3)]
    for whole, *split in zip(gradients(batch, 1.0), *parts, strict=True):
        torch.testing.assert_close(sum(split) / 3, whole, rtol=1e-4, atol=1e-6)


def literal_loss(loss, model, batch):
    """The mean over all positions with a target, by loops over them and their negatives."""

    def score(row, t, item):
        return (states[row, t] @ vectors[item]).item()

    states, vectors = model.encode(batch).double(), model.item_vectors().double()
    positive, negative = [], []
    for row, t in (batch.targets > 0).nonzero().tolist():
        target = score(row, t, batch.targets[row, t])
        others = [score(row, t, item) for item in batch.negatives[row, t]]
        assert len(others) == 3
        if loss == "sampled_ce":
            positive.append(math.log(sum(map(math.exp, [target, *others]))) - target)
        else:
            positive.append(math.log1p(math.exp(-target)))
            negative += [math.log1p(math.exp(other)) for other in others]
    return np.mean(positive) + (np.mean(negative) if negative else 0.0)


@pytest.mark.parametrize("loss", ["bce", "sampled_ce"])
def test_negatives_reach_the_loss(trainer_for, loss):
    flags = ("--model", "sasrec", "--loss", loss, "--negatives", "3", "--dropout", "0")
    trainer = trainer_for(loss, *flags, "--learning-rate", ".01", "--epochs", "3")
    seen = []
    trainer.step_loss.register_forward_hook(lambda module, inputs, parts: seen.append(inputs[0]))
    trainer.run()  # after it the scores differ from item to item
    with torch.no_grad():
        actual = trainer.step_loss(seen[0])["loss"].item()
        assert actual == pytest.approx(literal_loss(loss, trainer.model, seen[0]), rel=1e-5)
        others = seen[0]._replace(negatives=(seen[0].negatives % 130 + 1))
        assert trainer.step_loss(others)["loss"].item() != pytest.approx(actual, rel=1e-3)


def test_only_models_that_use_co_occurrence_count_it(trainer_for):
    for name, model in MODELS.items():
        trainer = trainer_for(name, "--model", name)
        assert isinstance(trainer.parts.batcher, Batcher)
        assert (trainer.parts.batcher.cooccurrence is not None) == model.uses_cooccurrence


def test_a_device_that_is_not_there():
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device 'cuda' is not available.*--device cpu"):
            make_accelerator(Config(device="cuda"))
    with pytest.raises(ConfigError, match="precision 'fp16' needs a GPU.*--precision bf16"):
        make_accelerator(Config(device="cpu", precision="fp16"))


def test_processes_that_would_train_alone_are_refused(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)  # a Mac's, say
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were started, but on device .*--device cpu"):
        make_accelerator(Config(device="auto"))


LEAVING = """
import gc, glob, torch
from rka_fast.training.config import Config
from rka_fast.training.devices import make_accelerator
model = make_accelerator(Config(device="cpu")).prepare(torch.nn.Linear(3, 3))
model(torch.ones(2, 3)).sum().backward()
del model
gc.collect()
running = lambda: sum("gloo" in open(name).read() for name in glob.glob("/proc/self/task/*/comm"))
before = running()
torch.distributed.destroy_process_group()
print(before, running())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="lists threads by /proc")
def test_no_thread_of_a_group_outlives_it():
    group = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    environment = {**os.environ, **group, **address, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", LEAVING],
        env=environment,
        cwd=INSTALLED,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    before, after = map(int, done.stdout.split())
    assert before > 0 and after == 0


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
@pytest.mark.parametrize("model", ["rksa", "sasrec"])
def test_products_have_the_precision_of_the_setting(trainer_for, model, precision, dtype):
    """In training and in evaluation; the weights stay in float32."""
    trainer = trainer_for("run", "--model", model, "--precision", precision, "--epochs", "1")
    found = {True: set(), False: set()}
    layers = [x for x in trainer.model.modules() if isinstance(x, torch.nn.Linear)]
    for layer in layers:
        layer.register_forward_hook(lambda x, inputs, y: found[x.training].add(y.dtype))
    result = trainer.run()
    assert layers and found == {True: {dtype}, False: {dtype}}
    assert {x.dtype for x in trainer.model.parameters()} == {torch.float32}
    assert result["config"]["precision"] == precision
    assert all(math.isfinite(line["loss"]) for line in lines(trainer, "loss"))


def test_a_backend_that_cannot_serve_is_an_error_before_anything_is_written(log, tmp_path, capsys):
    for name, message in (("foo", "expected one of auto, "), ("cuda", "no CUDA device")):
        if name == "cuda" and torch.cuda.is_available():
            continue
        out = tmp_path / name
        assert main(["--data", str(log), "--out", str(out), "--backend", name]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()
