"""The command in a process of its own, under load: nothing fails, through reloads and signals."""

import asyncio
import json
import signal
import subprocess
import sys
import time

import pytest
import serving as benchmark

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
pytestmark = pytest.mark.slow


def test_under_load_and_reloads_without_an_error(small_runs):
    results = benchmark.main(
        [
            str(small_runs("rksa").folder),
            "--seconds",
            "4",
            "--clients",
            "1",
            "16",
            "--reload-every",
            "0.5",
        ]
    )
    assert [result.errors for result in results] == [0, 0, 0]
    assert all(len(result.seconds) > 20 for result in results)
    assert results[-1].reloads >= 2


def test_another_run_comes_by_a_signal_while_clients_ask(small_runs, tmp_path):
    path = tmp_path / "served"
    path.symlink_to(small_runs("sasrec").folder)
    body = b'{"history": ["i3"]}'

    async def swap(port, process):
        async def asked() -> str:
            async with benchmark.Client(port) as client:
                return json.loads((await client.post("/recommend", body))[1])["by"]

        assert await asked() == "sasrec"
        load = asyncio.create_task(benchmark.load(port, 8, 8.0, [body]))
        await asyncio.sleep(0.5)
        (tmp_path / "next").symlink_to(small_runs("rksa").folder)
        (tmp_path / "next").rename(path)  # in one step
        process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 60
        while await asked() == "sasrec":
            assert time.monotonic() < until
            await asyncio.sleep(0.1)
        path.unlink()
        process.send_signal(signal.SIGHUP)  # of nothing: it stays
        return await load, await asked()

    with benchmark.served(path) as (port, process):
        result, by = asyncio.run(swap(port, process))
    assert result.errors == 0 and len(result.seconds) > 20
    assert by == "rksa"


def test_all_that_its_openapi_allows_and_does_not(small_runs, tmp_path):
    pytest.importorskip("schemathesis")
    limits = ("--max-body", "20000", "--max-history", "50", "--max-top", "100")
    with benchmark.served(small_runs("sasrec").folder, *limits) as (port, _):
        page = f"http://127.0.0.1:{port}/openapi.json"
        start = "import sys; from schemathesis.cli import schemathesis; schemathesis()"
        command = [sys.executable, "-c", start, "run", page, "--max-examples", "10"]
        command += ["--header", f"Authorization: Bearer {benchmark.TOKEN}", "--seed", "0"]
        command += ["--wait-for-schema", "60"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "5 selected / 5 total" in done.stdout


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_told(told, small_runs):
    with benchmark.served(small_runs("pop").folder) as (port, process):
        asyncio.run(benchmark.load(port, 1, 0.1, [b'{"history": []}']))
        process.send_signal(told)
        # As the signal would have ended it, after what was asked has been answered.
        assert process.wait(60) in (0, 130, -told)
