"""Kills `rka-fast recommend --all --out` in many places, and lets the same command go on.

To be run in a process of its own: polars cannot be used in a fork of one that has used it.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import sys
import time

from support.kills import in_a_fork, killed_at

from rka_fast.recommend import main
from rka_fast.recommending import output


def run(folder, out, every, part):
    """Prints a line for each kill: what was killed, and what the file then holds.

    Killed is the command at its calls 0, `every`, ... and, by a signal, beside every part that it
    has made. part: histories of a part.
    """
    output.PART = part

    def command():
        return main([str(folder), "--all", "--top", "3", "--out", str(out)])

    def goes_on(killed):
        status = in_a_fork(command)
        beside = sorted(path.name for path in out.parent.iterdir())
        digest = hashlib.sha256(out.read_bytes()).hexdigest()
        print(killed, status, digest, *beside, file=sys.__stderr__, flush=True)
        shutil.rmtree(out.parent)
        out.parent.mkdir()

    for call in range(0, 10_000, every):
        if not killed_at(call, command, out.parent):
            break
        goes_on("call")
    for parts in range(1, 10_000):
        killed = in_a_fork(command, lambda child, n=parts: _kill_beside(child, n, out))
        if killed != -signal.SIGKILL:
            break
        goes_on("signal")


def _kill_beside(child, parts, out):
    """Kills a process as soon as it has made as many parts."""
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        with contextlib.suppress(FileNotFoundError):  # the folder goes at the end
            if len(list(out.parent.glob(f"{out.name}.parts/part-*"))) >= parts:
                os.kill(child, signal.SIGKILL)
                return
        time.sleep(0.001)
