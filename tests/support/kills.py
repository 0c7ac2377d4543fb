"""Processes that die at a chosen call of the operating system, and files with flipped bits."""

import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

import numpy as np
import torch

CALLS = (
    "open", "write", "fsync", "replace", "rename", "mkdir", "rmdir", "unlink", "ftruncate", "close",
)  # fmt: skip
"""Of the module os: what our files are made with."""

DIED = 137


def in_a_fork(work, beside=lambda child: None):
    """The exit status of `work` in a fork of this process: what it returns, 99 where it raises.

    `beside` is called with the fork's number while it works.

    None of the threads there were are in it: it computes on one, and polars, which would wait for
    its own for ever, is ended after ten minutes.
    """
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            signal.alarm(600)
            os._exit(work() or 0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(99)
    beside(child)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(call, work, within):
    """Whether `work` dies at its `call`-th system call (from 0), in a process of its own.

    A write is cut off after half of its content, like one of a process that is killed. Only calls
    of files in the folder `within` count, and those on descriptors, or beside one.
    """

    def dying():
        _die_at(call, str(within))
        work()

    status = in_a_fork(dying)
    assert status in (0, DIED), f"the work failed with {status} in place of dying at call {call}"
    return status == DIED


def _die_at(call, within):
    done = [0]

    def dying(name, function):
        def wrapped(first, *arguments, **named):
            ours = isinstance(first, int) or named.get("dir_fd") is not None
            if not ours and not str(first).startswith(within):
                return function(first, *arguments, **named)
            if done[0] == call:
                if name == "write":
                    function(first, bytes(arguments[0])[: len(arguments[0]) // 2])
                os._exit(DIED)
            done[0] += 1
            return function(first, *arguments, **named)

        return wrapped

    for name in CALLS:
        setattr(os, name, dying(name, getattr(os, name)))


def content(folder):
    """Of every file of a folder, by its path there."""
    folder = Path(folder)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def flipped(folder, copy, name, rng):
    """A copy of the folder with one bit of one file flipped; returns which."""
    shutil.copytree(folder, copy)
    damaged = np.frombuffer((copy / name).read_bytes(), np.uint8).copy()
    place, bit = rng.integers(len(damaged)), rng.integers(8)
    damaged[place] ^= 1 << bit
    (copy / name).write_bytes(damaged.tobytes())
    return f"bit {bit} of byte {place} of {name}"
