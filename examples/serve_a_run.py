"""From a log to a server that answers over HTTP, and another run swapped in while it runs.

    python examples/serve_a_run.py [LOG] [FOLDER]

LOG and FOLDER are as in train_from_python.py. The server is `rka-fast serve`, in a process of its
own as in production; whoever asks needs nothing but HTTP.
"""

import json
import os
import re
import subprocess
import sys
import urllib.parse
import urllib.request

import rka_fast

TOKEN = "only the operator knows it"


def ask(url: str, body: object = None, token: str | None = None) -> dict:
    """The JSON that the server answers: to a GET, or to a POST of a body."""
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    content = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, content, headers)) as answer:
        return json.load(answer)


def main(log: str = "synthetic", folder: str = "runs/served") -> dict:
    """Train twice, serve the first run, ask, swap in the second. Returns the last answer."""
    first = rka_fast.fit(log, model="sasrec", epochs=2, out=f"{folder}/monday")
    rka_fast.fit(log, model="rksa", epochs=2, out=f"{folder}/tuesday")
    current = os.path.join(folder, "current")  # a link, which is what is served
    os.symlink("monday", current)

    command = [sys.executable, "-m", "rka_fast", "serve", current, "--port", "0"]
    environment = {**os.environ, "RKA_FAST_RELOAD_TOKEN": TOKEN}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = re.search(r"http://\S+:\d+", server.stdout.readline())[0]
            history = first.sequences.item_ids[:3]
            print(ask(f"{url}/recommend", {"history": [*history, "no such item"], "top": 3}))
            item = urllib.parse.quote(history[0])
            print(ask(f"{url}/similar?item={item}&top=3"))

            os.symlink("tuesday", f"{current}.next")
            os.replace(f"{current}.next", current)
            print(ask(f"{url}/reload", {}, TOKEN))
            answer = ask(f"{url}/recommend", {"history": history, "top": 3})
            print(answer)
            return answer
        finally:
            server.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
