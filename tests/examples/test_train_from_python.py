"""The example trains, evaluates and recommends on a log, and prints what it found."""

import runpy
from pathlib import Path

from support.runs import write_log

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_from_python.py"


def test_it_trains_and_recommends(tmp_path, capsys):
    main = runpy.run_path(str(EXAMPLE))["main"]
    log = write_log(tmp_path / "log.txt")
    run = main(str(log), str(tmp_path / "run"))
    printed = capsys.readouterr().out
    user = run.sequences.user_ids[0]
    had = set(run.sequences.sequence(run.sequences.user_index(user)).tolist())
    found = run.recommend(user, top=5)
    assert len(found) == 5
    assert not {run.sequences.item_ids.index(item) + 1 for item, _ in found} & had
    for item, score in found:
        assert f"  {item:<12}{score:8.3f}" in printed
    assert f"after {', '.join(run.sequences.item_ids[:3])}:" in printed
    result = (tmp_path / "run" / "result.json").read_text()
    assert f"'ndcg@10': {run.evaluate('test')['full']['ndcg@10']:.4f}".rstrip("0") in printed
    assert '"best_epoch"' in result
