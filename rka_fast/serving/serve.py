"""Answer over HTTP from a run, or from an export of one.

rka-fast serve RUN --port 8000
curl localhost:8000/recommend -H 'content-type: application/json' -d '{"history": ["i3", "i42"]}'
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import TYPE_CHECKING

import tyro

from rka_fast.commands import exit_status, parse
from rka_fast.errors import ConfigError, UserError
from rka_fast.serving.engine import Engine, load
from rka_fast.serving.limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

TOKEN = "RKA_FAST_RELOAD_TOKEN"
_NEEDED = {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}


@dataclass(frozen=True)
class Flags:
    """The command line."""

    # Folder of rka-fast train, or of rka-fast export.
    path: tyro.conf.Positional[str]
    # Port to listen on; 0 takes a free one.
    port: int = 8000
    # Address to listen on. Others than this machine reach it only if it is another one, such as
    # 0.0.0.0; there is no login and no encryption, so let that be behind a proxy.
    host: str = "127.0.0.1"
    # Find items by approximate search, for catalogues of hundreds of thousands; needs faiss.
    ann: tyro.conf.FlagCreatePairsOff[bool] = False
    # Requests that are scored together at most.
    batch: int = 64
    # Milliseconds that a request waits for others to be scored with.
    wait: float = 2.0
    # Bytes of a request's body at most.
    max_body: int = Limits.body
    # Items of a history at most.
    max_history: int = Limits.history
    # Items of an answer at most.
    max_top: int = Limits.top
    # What POST /reload asks for as a bearer token; by default the environment variable
    # RKA_FAST_RELOAD_TOKEN, which others on this machine cannot see. Without one there is no
    # /reload; SIGHUP reloads too.
    reload_token: str | None = None

    def check(self) -> None:
        """Raise ConfigError for a value that cannot be."""
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("port", "wait") else 1
            if type(value) in (int, float) and not least <= value < 2**31:
                name = field.name.replace("_", "-")
                raise ConfigError(f"--{name} must be at least {least}, got {value}")
        if self.port > 65535:
            raise ConfigError(f"--port must be at most 65535, got {self.port}")


def application(flags: Flags) -> FastAPI:
    """The application that the flags describe. Raises UserError where it cannot be made."""
    flags.check()
    if missing := [name for module, name in _NEEDED.items() if find_spec(module) is None]:
        raise ConfigError(f"serve needs {', '.join(missing)}: pip install 'rka_fast[serve]'")
    from rka_fast.serving.app import make_app

    def engine() -> Engine:
        return load(flags.path, flags.ann)

    return make_app(
        engine,
        Limits(flags.max_body, flags.max_history, flags.max_top),
        most=flags.batch,
        wait=flags.wait / 1000,
        token=flags.reload_token or os.environ.get(TOKEN) or None,
    )


async def serve(flags: Flags) -> None:
    """Answer until a signal stops it."""
    app = application(flags)
    import uvicorn

    listening = listen(flags.host, flags.port)
    config = uvicorn.Config(app, access_log=False, lifespan="on")
    server = uvicorn.Server(config)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    if not ipaddress.ip_address(host).is_loopback:
        print(f"warning: whoever reaches {host} can ask; there is no login", file=sys.stderr)
    print(f"listening on http://{shown}:{port}; OpenAPI is at /openapi.json", flush=True)
    reloads: set[asyncio.Task[None]] = set()

    def hang_up() -> None:
        task = asyncio.create_task(_reload(app))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
    await server.serve(sockets=[listening])


async def _reload(app: FastAPI) -> None:
    try:
        await app.state.server.reload()
    except UserError:  # which the log has told
        return


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ConfigError where that cannot be."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=2048)
        # Connections inherit it. Else a small answer waits 40 ms for an acknowledgement, as
        # asyncio sees to it only where the socket was made with its protocol's number.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except (OSError, UnicodeError) as error:  # of a name that cannot be one of a machine
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen on {host} port {port}: {reason}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 for a user's mistake."""

    def run() -> int:
        flags = parse(
            Flags, argv, "rka-fast serve", __doc__, "one folder is served; is {0} a flag's value?"
        )
        asyncio.run(serve(flags))
        return 0

    return exit_status(run, stopped="stopped")


if __name__ == "__main__":
    sys.exit(main())
