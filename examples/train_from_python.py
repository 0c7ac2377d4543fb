"""Train a recommender on a log and ask it, all from Python.

    python examples/train_from_python.py [LOG] [FOLDER]

LOG is a file of user, item and, where there is one, time, in any form that `rka-fast train` reads;
without it the built-in synthetic data is taken. FOLDER is where the run is written.
"""

import sys

import rka_fast


def main(log: str = "synthetic", folder: str = "runs/example") -> rka_fast.Run:
    """Train for a few epochs, print how good it is, recommend. Returns the run."""
    run = rka_fast.fit(log, model="rksa", epochs=5, out=folder)

    # The test items, ranked against everything that a user has not had.
    print("full ranking:", {name: round(x, 4) for name, x in run.evaluate("test")["full"].items()})

    user = run.sequences.user_ids[0]
    print(f"for {user}:")
    for item, score in run.recommend(user, top=5).select("item", "score").rows():
        print(f"  {item:<12}{score:8.3f}")

    # Somebody who was not there in training, by what they had, oldest first.
    history = run.sequences.item_ids[:3]
    print(f"after {', '.join(history)}:")
    for item, score in run.recommend([history], top=5).select("item", "score").rows():
        print(f"  {item:<12}{score:8.3f}")

    # Another day, another process: the folder has all of it.
    again = rka_fast.Run.load(folder)
    assert again.recommend(user, top=5).equals(run.recommend(user, top=5))
    return run


if __name__ == "__main__":
    main(*sys.argv[1:])
