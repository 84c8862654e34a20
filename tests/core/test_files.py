"""Files: text is UTF-8 in every locale, a changed byte is seen, a full disk is an error."""

import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.core import files
from fedlab.core.files import DamagedError


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=20, deadline=None)
def test_text_comes_back_as_written(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.json"
    files.write_json(path, {"text": text})
    assert files.read_json(path) == {"text": text}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"[" * 100_000])
def test_what_is_no_json_object_is_damaged(tmp_path, content):
    (tmp_path / "card.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"card\.json is damaged"):
        files.read_json(tmp_path / "card.json")


@given(st.binary(min_size=1, max_size=40), st.data())
@settings(max_examples=20, deadline=None)
def test_a_changed_byte_is_seen(tmp_path_factory, content, data):
    folder = tmp_path_factory.mktemp("folder")
    (folder / "a.bin").write_bytes(content)
    files.write_checksums(folder)
    assert files.verify(folder / "a.bin").read_bytes() == content
    place, other = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(1, 255))
    (folder / "a.bin").write_bytes(content[:place] + bytes([content[place] ^ other]) + content[place + 1 :])
    with pytest.raises(DamagedError, match=r"a\.bin is damaged"):
        files.verify(folder / "a.bin")
    (folder / "a.bin").unlink()
    with pytest.raises(DamagedError, match=r"a\.bin is missing"):
        files.verify(folder / "a.bin")


@given(st.text(max_size=400))
@settings(max_examples=30, deadline=None)
def test_a_file_name_fits_on_any_disk(words):
    name = files.file_name(words, 200)
    assert len(name.encode()) <= 200 and "/" not in name and "\0" not in name


def test_paths_have_one_form(tmp_path, monkeypatch):
    (tmp_path / "a b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a b")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    spellings = ["a b", "./a b", "a b/", "~/a b", "link", tmp_path / "a b", tmp_path / "link" / ".." / "a b"]
    assert {files.resolve(each) for each in spellings} == {(tmp_path / "a b").resolve()}
    for wrong in ("", " ", "a\0b", "~nobody-of-this-name/a"):
        with pytest.raises(ValueError, match="is no path"):
            files.resolve(wrong)


def test_reserved_space_is_on_the_disk(tmp_path):
    files.reserve(tmp_path / "space", 1_000_000)
    about = (tmp_path / "space").stat()
    assert about.st_size == 1_000_000 and about.st_blocks * 512 >= 1_000_000


def test_a_full_disk_is_an_error_with_sizes(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="1,000 bytes are needed") as caught:
        files.reserve(tmp_path / "space", 1000)
    assert caught.value.errno == errno.ENOSPC and not (tmp_path / "space").exists()
