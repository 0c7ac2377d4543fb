"""Where a report goes: to the terminal and, where one is named, to a file."""

from pathlib import Path


def publish(text: str, file: str | Path | None) -> None:
    print(text)
    if file is not None:
        Path(file).write_text(text, encoding="utf-8")
