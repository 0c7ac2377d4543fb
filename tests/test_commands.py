"""`rka-fast`, its modules, and what they share."""

import contextlib
import importlib
import io
import re
from functools import cache
from pathlib import Path

import pytest
from support import processes
from support.runs import small
from support.slow import slow

from rka_fast import commands
from rka_fast.commands import COMMANDS, exit_status, main
from rka_fast.errors import ConfigError, Interrupted
from rka_fast.version import __version__


def python(*arguments):
    """The completed process of Python with these arguments, which succeeds."""
    done = processes.python(*arguments)
    assert done.returncode == 0, done.stderr
    return done


def test_the_list_of_commands(capsys):
    for argv in ([], ["--help"]):
        assert main(argv) == 0
        text = capsys.readouterr().out
        assert all(f"  {name} " in text and line in text for name, line in COMMANDS.items())
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rka_fast {__version__}\n"
    assert main(["trian"]) == 2
    assert "unknown command 'trian'; did you mean 'train'?" in capsys.readouterr().err


@cache
def help_of(name):
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    return text.getvalue()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_its_flags(name):
    assert f"rka-fast {name}" in help_of(name) and "--help" in help_of(name)


def test_what_the_pages_say_can_be_typed():
    """Every `rka-fast NAME ... --flag` of the pages is a command with such a flag."""
    root = Path(__file__).parents[1]
    pages = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("benchmarks/results/*.md")]
    unknown, seen = [], set()
    for page in pages:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for name, rest in re.findall(r"rka-fast ([a-z]+)\b([^`\n|;&]*)", text):
            if name not in COMMANDS:
                unknown.append((page.name, name))
                continue
            seen.add(name)
            flags = re.findall(r"(?<!\S)--([a-z][a-z-]*)", rest.partition("#")[0])
            known = re.findall(r"--([a-z][a-z-]*)", help_of(name))
            unknown += [(page.name, name, flag) for flag in flags if flag not in known]
    assert unknown == [] and seen >= COMMANDS.keys() - {"similar"}


def test_a_command_runs_with_its_own_flags(tmp_path, capsys):
    assert main(["train", "--model", "pop", "--out", str(tmp_path / "run"), *small("pop")]) == 0
    assert "(synthetic data)" in capsys.readouterr().out
    assert main(["recommend", str(tmp_path / "none"), "--user", "u"]) == 2
    assert "is not a run folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [slow(("rka_fast.train",)), slow(("rka_fast", "train"))],
)
def test_modules_run_without_a_warning(arguments):
    done = python("-m", *arguments, "--help")
    assert done.stderr == "" and "usage: rka-fast train" in done.stdout


def test_the_console_script_is_main():
    scripts = importlib.metadata.entry_points(group="console_scripts")
    for script in scripts:
        if script.name == "rka-fast":
            assert script.load() is commands.main


def test_exit_statuses(capsys):
    def fail(error):
        def run():
            raise error

        return run

    assert exit_status(lambda: 0) == 0 and exit_status(lambda: 1) == 1
    for error in (ConfigError("no such thing"), OSError("no such thing")):
        assert exit_status(fail(error)) == 2
        assert capsys.readouterr().err == "error: no such thing\n"
    with pytest.raises(ZeroDivisionError):  # a fault of ours keeps its traceback
        exit_status(lambda: 1 // 0)
    told = {"go on with": Interrupted("go on with"), "interrupted": KeyboardInterrupt()}
    for message, stopped in told.items():
        assert exit_status(fail(stopped)) == 130
        assert capsys.readouterr().err == f"\n{message}\n"
        assert exit_status(fail(stopped), stopped="kept") == 130
        assert capsys.readouterr().err == "\nkept\n"
