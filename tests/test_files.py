"""Files that are whole or not there, and names of logs."""

import os

import pytest

from rka_fast.errors import FolderError
from rka_fast.files import check_writable, csv_cell, stem, write_atomically, write_output


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


def test_what_a_spreadsheet_would_compute_is_made_text():
    assert [csv_cell(x) for x in ("=1+1", "+1", "-a", "@b", "\tc", "d=")] == [
        "'=1+1", "'+1", "'-a", "'@b", "'\tc", "d="
    ]  # fmt: skip
    assert [csv_cell(x) for x in (-1.5, None)] == [-1.5, None]


def test_an_output_is_written_where_its_link_leads(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_output(tmp_path / "link", "new")
    assert (tmp_path / "target").read_text() == "new" and (tmp_path / "link").is_symlink()
    read, write = os.pipe()
    write_output(f"/dev/fd/{write}", "through a pipe")  # as /dev/stdout is in front of one
    os.close(write)
    with open(read) as pipe:
        assert pipe.read() == "through a pipe"
