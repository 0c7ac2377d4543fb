"""Files that are whole or not there, and names of logs."""

import os

import pytest

from rka_fast.errors import FolderError
from rka_fast.files import check_writable, stem, write_atomically


def test_dying_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(FolderError, match="cannot write .*file: No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_text_and_bytes_replace_what_was_there(tmp_path):
    for content in ("first, long", b"\xff", "ü"):
        write_atomically(tmp_path / "file", content)
        expected = content if isinstance(content, bytes) else content.encode()
        assert (tmp_path / "file").read_bytes() == expected
    with pytest.raises(FolderError, match="cannot write .*none/file: No such file"):
        write_atomically(tmp_path / "none" / "file", "x")


def test_whether_a_file_can_be_written_is_told_without_writing_it(tmp_path):
    check_writable(tmp_path / "new" / "file")
    assert os.listdir(tmp_path / "new") == []
    (tmp_path / "old").write_text("kept")
    check_writable(tmp_path / "old")
    assert (tmp_path / "old").read_text() == "kept"
    with pytest.raises(FolderError, match="cannot write .*old/file.*give another file"):
        check_writable(tmp_path / "old" / "file")
    check_writable("/dev/stdout")
    assert os.path.lexists("/dev/stdout")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("/x/ml-1m.txt.gz", "ml-1m"),
        ("a.csv,dir/b.csv", "a"),
        ("folder/", "folder"),
        ("u.data", "u"),
        ("", "data"),
    ],
)
def test_the_short_name_of_a_log(source, expected):
    assert stem(source) == expected
