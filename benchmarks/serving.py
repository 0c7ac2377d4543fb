"""Load on a server: requests a second, latencies and errors, through reloads too.

python benchmarks/serving.py RUN|EXPORT [--seconds 60] [--clients 1 8 64] [--report FILE]

Starts `rka-fast serve` and clients that each ask again as soon as they are answered, on connections
that stay open. A last row has the largest number of clients while a reload is asked for every two
seconds. Clients and server share the machine.
"""

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from publishing import publish

import rka_fast
from rka_fast.commands import machine

TOKEN = "of the benchmark"


class Result(NamedTuple):
    """seconds: of every answer. errors: answers that were none, or of another status than 200."""

    seconds: np.ndarray
    errors: int
    lasted: float
    reloads: int

    def row(self, name: str) -> str:
        p50, p99 = 1000 * np.percentile(self.seconds, (50, 99))
        rate = len(self.seconds) / self.lasted
        return f"| {name} | {rate:,.0f} | {p50:.1f} | {p99:.1f} | {self.errors} |"


@contextmanager
def served(path: Path, *flags: str) -> Iterator[tuple[int, subprocess.Popen]]:
    """The port of a server, and its process, which is stopped at the end."""
    run = str(path.absolute())  # maybe a link to another one later
    command = [sys.executable, "-m", "rka_fast", "serve", run, "--port", "0", *flags]
    environment = {**os.environ, "RKA_FAST_RELOAD_TOKEN": TOKEN}
    installed = Path(rka_fast.__file__).parents[1]  # where -m looks first: of this package
    with subprocess.Popen(
        command, env=environment, cwd=installed, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stdout.readline()
            yield int(re.search(r":(\d+);", line)[1]), process
        finally:
            process.terminate()
            process.wait(60)


class Client:
    """One connection that stays open."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def __aenter__(self) -> "Client":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_) -> None:
        self.writer.close()

    async def post(self, path: str, content: bytes = b"", headers: str = "") -> tuple[int, bytes]:
        """Status and body of the answer."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"{headers}Content-Length: {len(content)}\r\n\r\n"
        )
        self.writer.write(head.encode() + content)
        told = await self.reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", told, re.IGNORECASE)[1])
        return int(told.split(b" ", 2)[1]), await self.reader.readexactly(length)


async def load(
    port: int, clients: int, seconds: float, bodies: Sequence[bytes], reload_every: float = 0.0
) -> Result:
    """Clients that ask one after the other for some seconds."""
    begin = time.perf_counter()
    end, taken, errors, reloads = begin + seconds, [], 0, 0

    async def one(seed: int) -> None:
        nonlocal errors
        rng = random.Random(seed)
        async with Client(port) as client:
            while time.perf_counter() < end:
                start = time.perf_counter()
                try:
                    status, body = await client.post("/recommend", rng.choice(bodies))
                except (OSError, asyncio.IncompleteReadError):
                    errors += 1
                    return
                taken.append(time.perf_counter() - start)
                errors += status != 200 or not json.loads(body)["items"]

    async def reloading() -> None:
        nonlocal errors, reloads
        async with Client(port) as client:
            while time.perf_counter() + reload_every < end:
                await asyncio.sleep(reload_every)
                status, _ = await client.post("/reload", b"", f"Authorization: Bearer {TOKEN}\r\n")
                reloads += status == 200
                errors += status != 200

    others = [reloading()] if reload_every else []
    await asyncio.gather(*(one(seed) for seed in range(clients)), *others)
    return Result(np.array(taken), errors, time.perf_counter() - begin, reloads)


def bodies_for(ids: Sequence[str], length: int, count: int = 1000) -> list[bytes]:
    """Requests with random histories of up to twice the length that the model reads."""
    rng = random.Random(0)
    return [
        json.dumps({"history": rng.choices(ids, k=rng.randint(1, 2 * length)), "top": 10}).encode()
        for _ in range(count)
    ]


def catalogue(path: Path) -> tuple[list[str], int]:
    """Item ids and length of the histories of a run or an export."""
    if (path / "export.json").is_file():
        facts = json.loads((path / "export.json").read_text())
        return json.loads((path / "items.json").read_text(encoding="utf-8")), facts["length"]
    ids = json.loads((path / "sequences" / "ids.json").read_text(encoding="utf-8"))["items"]
    return ids, json.loads((path / "config.json").read_text())["max_length"]


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Measure, print the table, and return what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--reload-every", type=float, default=2.0)
    parser.add_argument("--report", type=Path, help="write the table to this file (Markdown)")
    flags = parser.parse_args(argv)
    bodies = bodies_for(*catalogue(flags.path))
    lines = [
        "| clients | requests a second | p50, ms | p99, ms | errors |",
        "|---|--:|--:|--:|--:|",
    ]
    results = []
    with served(flags.path) as (port, _):
        asyncio.run(load(port, 1, min(2.0, flags.seconds), bodies))  # warm
        for clients, every in [
            *((n, 0.0) for n in flags.clients),
            (max(flags.clients), flags.reload_every),
        ]:
            results.append(asyncio.run(load(port, clients, flags.seconds, bodies, every)))
            more = f" and {results[-1].reloads} reloads" if every else ""
            lines.append(results[-1].row(f"{clients}{more}"))
            print(lines[-1], file=sys.stderr)
    text = "\n".join(lines) + f"\n\n{flags.seconds:g} s each; {machine()}\n"
    publish(text, flags.report)
    return results


if __name__ == "__main__":
    main()
