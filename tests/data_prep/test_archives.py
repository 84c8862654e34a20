"""Laws of archives: the right bytes or an error that names the file, and nothing is written anywhere."""

import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.archives import Archive, leads_outside
from fedlab.core.files import DamagedError

FILES = {f"top/{name}.bin": np.random.default_rng(k).bytes(700 + k) for k, name in enumerate("abc")}


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


KINDS = {
    "zip": zipped(FILES),
    "stored.zip": zipped(FILES, zipfile.ZIP_STORED),
    "tar": tarred(FILES),
    "tar.gz": gzip.compress(tarred(FILES), mtime=0),
    "tar.xz": lzma.compress(tarred(FILES)),
}


def content(path: Path) -> dict[str, bytes]:
    with Archive(path) as archive:
        return dict(archive.each(archive.names))


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_read_by_name_in_any_order(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "any name"
    path.write_bytes(KINDS[kind])
    with Archive(path) as archive:
        assert archive.names == sorted(FILES)
        assert {name: archive.read(name) for name in sorted(FILES, reverse=True)} == FILES == content(path)
        with pytest.raises(KeyError):
            archive.read("a.bin")


@pytest.mark.parametrize("kind", KINDS)
@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cut_archive_is_named(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(KINDS[kind][: int(share * len(KINDS[kind]))])
    try:
        assert content(path) == FILES  # what is lost was padding
    except DamagedError as error:
        assert str(error).startswith(f"{path} is damaged (") and "download it again" in str(error)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tar"])  # a plain tar has no checksum of contents
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_is_found(kind: str, place: float, change: int, tmp_path: Path) -> None:
    body = bytearray(KINDS[kind])
    body[int(place * len(body))] ^= change
    path = tmp_path / f"changed.{kind}"
    path.write_bytes(body)
    try:
        found = content(path)
    except ValueError as error:
        assert str(error).startswith(str(path))
    else:  # a changed name makes a file missing, never another one
        assert all(FILES.get(name, held) == held for name, held in found.items())
        assert found == FILES or len(set(FILES) - set(found)) <= 1


def test_a_tar_that_ends_before_its_end_mark_is_named(tmp_path: Path) -> None:
    whole = tarred(FILES)
    path = tmp_path / "half.tar"
    path.write_bytes(whole[: 2 * (512 + 1024)])  # two whole members
    with pytest.raises(DamagedError, match=r"half\.tar is damaged .*no end mark"):
        Archive(path)
    spoilt = bytearray(whole)
    spoilt[512 + 1024 + 150] ^= 1  # in the checksum of the second member's header, where tarfile would stop
    path.write_bytes(spoilt)
    with pytest.raises(DamagedError, match=r"unreadable from byte 1,536"):
        Archive(path)


def test_an_encrypted_zip_is_told(tmp_path: Path) -> None:
    body = bytearray(KINDS["zip"])
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # flags of local and central headers
        for start in [i for i in range(len(body)) if body[i : i + 4] == mark]:
            body[start + place] |= 1
    (tmp_path / "secret.zip").write_bytes(body)
    with pytest.raises(ValueError, match=r"secret\.zip is encrypted \(top/a\.bin\): unpack it with its password"):
        Archive(tmp_path / "secret.zip")


OUTSIDE = ["../evil.bin", "/etc/evil.bin", "top/../../evil.bin", "..\\evil.bin", "C:\\evil.bin", "C:evil.bin"]


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize("name", OUTSIDE)
def test_members_that_lead_outside_are_not_used(make: object, name: str, tmp_path: Path) -> None:
    path = tmp_path / "in" / "evil.zip"
    path.parent.mkdir()
    path.write_bytes(make({**FILES, name: b"evil"}))  # type: ignore[operator]
    with pytest.warns(UserWarning, match=r"evil\.zip: 1 members lead out of its folder and are not used"):
        assert content(path) == FILES
    assert not list(tmp_path.rglob("evil.bin")) and leads_outside(name)


@pytest.mark.parametrize("make", [zipped, tarred])
def test_hidden_members_are_passed_over_and_of_two_the_last_counts(make: object, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(make({".git/a": b"", "__MACOSX/top/._a.bin": b"", "top/._b": b"", "./d.bin": b"d", **FILES}))  # type: ignore[operator]
    assert content(path) == {**FILES, "./d.bin": b"d"}
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"old")
        archive.writestr("a", b"new")
    assert content(path) == {"a": b"new"}
