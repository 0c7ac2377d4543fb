"""What is told at the end of a run can be done as it is told."""

import shlex

from support.sequences import sequences_of

from rka_fast.training.closing import closing_lines
from rka_fast.training.config import Config
from rka_fast.training.flags import parse
from rka_fast.training.run_folder import RunFolder


def lines(config, folder, user_ids=("a", "b")):
    sequences = sequences_of([[1, 2, 3]] * len(user_ids), user_ids=user_ids)
    return closing_lines(config, folder, sequences, {"best_epoch": 3, "test": {}}, 3)


def test_where_the_last_epoch_was_the_best_more_are_offered(tmp_path):
    folder = RunFolder(tmp_path / "a run")
    folder.path.mkdir()
    for decay in ("none", "cosine"):
        config = Config(data="x", epochs=3, decay=decay)
        folder.write_config(config)
        command = lines(config, folder)[0].partition("more may be better, ")[2]
        if decay == "none":
            assert parse(shlex.split(command)[2:]).config.epochs == 6
        else:  # where resuming refuses other epochs
            assert command.startswith("a new run with --epochs 6")


def test_the_user_of_the_example_is_one_that_a_terminal_shows(tmp_path):
    folder, config = RunFolder(tmp_path), Config(data="x")
    assert "--user 'a b', or" in lines(config, folder, ["\x1b[2J", "a b"])[-1]
    assert "--user ID, or" in lines(config, folder, ["\x1b[2J", "\x07"])[-1]
