"""Kills `rka-fast prepare` in many places, and lets the same command go on.

To be run in a process of its own: polars cannot be used in a fork of one that has used it.
"""

import json
import os
import shutil
import signal
import sys
import time

from support.kills import content, in_a_fork, killed_at

from rka_fast.prepare import main

DONE = "prepared.json"


def run(words, out, every, paths):
    """Prints a line for each kill: where, and what the same command then made of it, as JSON.

    words: of the command, beside --out. out: the only thing in its folder. Killed is the command at
    its calls 0, `every`, ... and, by a signal, as soon as it has made 1, 1 + `paths`, ... files and
    folders, which engines make by calls of their own.
    """

    def command():
        return main([*words, "--out", str(out)])

    def dying():
        assert command() == 0

    def goes_on(place):
        done = (out / DONE).is_file()
        before = content(out) if done else None
        status = in_a_fork(command)
        found = {"place": place, "done": done, "status": status, "same": before == content(out)}
        found["beside"] = sorted(path.name for path in out.parent.iterdir())
        found["files"] = sorted(str(path.relative_to(out)) for path in out.rglob("*"))
        found["facts"] = json.loads((out / DONE).read_text())
        print(json.dumps(found), file=sys.__stderr__, flush=True)
        shutil.rmtree(out)

    for call in range(0, 10_000, every):
        if not killed_at(call, dying, out):
            shutil.rmtree(out)
            break
        goes_on(f"call {call}")
    for number in range(1, 10_000, paths):
        killed = in_a_fork(command, lambda child, n=number: _kill_beside(child, n, out))
        if killed != -signal.SIGKILL:
            break
        goes_on(f"signal {number}")


def _kill_beside(child, number, out):
    """Kills a process as soon as so many paths have been seen in a folder."""
    seen = set()
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        seen.update(os.path.join(at, name) for at, *of in os.walk(out) for n in of for name in n)
        if len(seen) >= number:
            os.kill(child, signal.SIGKILL)
            return
        time.sleep(0.0002)
