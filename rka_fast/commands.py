"""The commands of `rka-fast`, and what they share: exit status, messages, the machine's name."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import io
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rka_fast.errors import ConfigError, Interrupted, UserError, hint
from rka_fast.version import __version__

COMMANDS = {
    "train": "Train a model on an interaction log.",
    "prepare": "Write a log's sequences to a folder that is trained on, for large logs.",
    "recommend": "Recommend items from a finished or interrupted run.",
    "similar": "Show the items most like an item, from a run.",
    "explain": "Show on a page why a run recommends what it does.",
    "export": "Write a run's model to a folder that answers without this package.",
    "report": "Show a run, or several side by side, on a page.",
    "tune": "Search for the settings that validate best.",
    "serve": "Answer over HTTP from a run, or from an export of one.",
    "reproduce": "Make the paper's table from data files.",
    "verify": "Check a backend here against the reference, and draws against their law.",
    "info": "Show versions, and which backends work here.",
}
"""One line about each command; `main` of the module `rka_fast.NAME` runs it."""
_ELSEWHERE = {"export": "serving.export", "serve": "serving.serve"}
# `rka_fast.export` is the function


def main(argv: Sequence[str] | None = None) -> int:
    """Run `rka-fast COMMAND ...`. Returns the exit status."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print("usage: rka-fast COMMAND [flags]   (rka-fast COMMAND --help tells the flags)\n")
        print("\n".join(f"  {command:<12}{line}" for command, line in COMMANDS.items()))
        print(f"  {'--version':<12}Show the version.")
        return 0
    if name == "--version":
        print(f"rka_fast {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}; {hint(name, COMMANDS)}", file=sys.stderr)
        return 2
    return importlib.import_module(f"rka_fast.{_ELSEWHERE.get(name, name)}").main(rest)


ALIASES = {
    "--lr": "--learning-rate",
    "--wd": "--weight-decay",
    "--bs": "--batch-size",
    "--dim": "--width",
    "--hidden-size": "--width",
    "--hidden-dim": "--width",
    "--hidden-units": "--width",
    "--embedding-dim": "--width",
    "--embedding-size": "--width",
    "--d-model": "--width",
    "--layers": "--blocks",
    "--num-layers": "--blocks",
    "--n-layers": "--blocks",
    "--num-blocks": "--blocks",
    "--num-heads": "--heads",
    "--n-heads": "--heads",
    "--maxlen": "--max-length",
    "--seq-len": "--max-length",
    "--num-epochs": "--epochs",
    "--n-epochs": "--epochs",
    "--dropout-rate": "--dropout",
    "--early-stopping": "--patience",
    "--clip": "--gradient-clip",
    "--warmup": "--warm-up",
    "--warmup-steps": "--warm-up",
    "--dataset": "--data",
    "--input": "--data",
    "--file": "--data",
    "--output": "--out",
    "--output-dir": "--out",
    "--random-seed": "--seed",
    "--gpu": "--device cuda",
    "--cuda": "--device cuda",
    "--cpu": "--device cpu",
    "--k": "--top",
    "--topk": "--top",
    "--n": "--top",
    "--user-id": "--user",
    "--item-id": "--item",
    "--items": "--history",
}
"""What other programs call some of our flags."""


def refuse_unknown(unknown: Sequence[str], flags: Iterable[str], stray: str) -> None:
    """Raise ConfigError for words of a command line that no flag has taken, if there are any.

    flags: those of the command. stray: what a word that is no flag may have meant, with {0} in its
    place.
    """
    if not unknown:
        return
    word, flags = unknown[0], list(flags)
    if not word.startswith("-"):
        raise ConfigError(f"unexpected {word!r}; {stray.format(word)}")
    name = word.partition("=")[0].replace("_", "-").lower()
    meant = ALIASES.get(name, name if name in flags else "")
    if meant.split()[:1] and meant.split()[0] in flags:
        raise ConfigError(f"unknown flag {word}; did you mean {meant}?")
    near = difflib.get_close_matches(name[2:], [flag[2:] for flag in flags], n=1)
    told = f"did you mean --{near[0]}?" if near else "--help tells them all"
    raise ConfigError(f"unknown flag {word}; {told}")


Flags = TypeVar("Flags")


def parse(
    kind: type[Flags], argv: Sequence[str] | None, prog: str, description: str | None, stray: str
) -> Flags:
    """The command line as a dataclass. Raises ConfigError for a word that is not known."""
    import tyro

    fields: Any = kind
    found, unknown = tyro.cli(
        kind, args=argv, prog=prog, description=description, return_unknown_args=True
    )
    names = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(fields)]
    refuse_unknown(unknown, names, stray)
    return found


def exit_status(run: Callable[[], int], stopped: str | None = None) -> int:
    """The exit status of a command: 2 for a user's mistake, told in one line; 130 if stopped.

    stopped: what is said then, in place of the interruption's own message.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # ids may have letters that a console has not
            stream.reconfigure(errors="backslashreplace")
    try:
        return run()
    except (UserError, OSError, MemoryError) as error:
        print(f"error: {_line(error)}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt) as interruption:
        print(f"\n{stopped or str(interruption) or 'interrupted'}", file=sys.stderr)
        return 130


def _line(error: BaseException) -> str:
    """What went wrong: of the system's own errors the file and the reason."""
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}" if str(error) else "not enough memory"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def choose(given: str, known: Iterable[str], kind: str) -> list[str]:
    """The names of a comma-separated list in the order given; "all" stands for all known.

    Raises ConfigError for an unknown name, with the nearest one, and where there is none.
    """
    known = list(known)
    names = list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    if not names:
        raise ConfigError(f"no {kind} given in {given!r}; known are all, {', '.join(known)}")
    for name in names:
        if name != "all":
            check_name(name, known, kind)
    return known if "all" in names else names


def check_name(name: str, known: Iterable[str], kind: str) -> None:
    """Raise ConfigError unless `name` is known."""
    known = list(known)
    if name not in known:
        raise ConfigError(f"unknown {kind} {name!r}; {hint(name, known)}")


def machine() -> str:
    """Processor, threads, GPU if there is one, and the version of torch."""
    import torch

    name = platform.processor()
    info = Path("/proc/cpuinfo")  # where Linux has the name that `platform` does not know
    if info.is_file():
        lines = info.read_text().splitlines()
        name = next((x.partition(":")[2].strip() for x in lines if "model name" in x), name)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    count = torch.get_num_threads()
    threads = "1 thread" if count == 1 else f"{count} threads"
    return f"{name or platform.machine()}, {threads}{gpu}, torch {torch.__version__}"
