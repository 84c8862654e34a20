"""Laws of fetching and converting: only the official bytes are used, and what is prepared is exactly what they hold."""

import hashlib
import io
import json
import os
import re
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import data_prep
from data_prep import medmnist, mednist, writer
from data_prep.__main__ import main
from data_prep.fetch import downloads, fetch, found, locate
from fedlab.data.cases import TASKS, read

BODY = np.random.default_rng(0).bytes(300_000)
CHECKSUM = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
mirror_needed = pytest.mark.skipif(
    not os.environ.get("FEDLAB_MIRROR"), reason="set FEDLAB_MIRROR to a folder with the official files"
)


class Server(ThreadingHTTPServer):
    """Serves one body; `ranges` says whether it can continue, `breaks` how many answers stop half-way."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.ranges, self.breaks = BODY, True, 0
        self.requested: list[str | None] = []
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/set.npz?download=1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requested.append(wanted)
        start = int(re.findall(r"\d+", wanted)[0]) if wanted and self.server.ranges else 0
        if start and start >= len(self.server.body):
            self.send_error(416)
            return
        piece = self.server.body[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(piece)))
        self.end_headers()
        if self.server.breaks > 0:
            self.server.breaks -= 1
            piece = piece[: len(piece) // 2]
            self.close_connection = True
        self.server.sent += len(piece)  # before writing: the client may be done before this thread continues
        self.wfile.write(piece)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path / "home"))
    monkeypatch.delenv("FEDLAB_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time.sleep", lambda _: None)
    return tmp_path / "home"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def mirror(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("FEDLAB_MIRROR", str(folder))
    return folder


# --- fetching


def test_download_enters_the_cache_and_is_not_repeated(server: Server) -> None:
    first = fetch(server.url, "set.npz", CHECKSUM)
    assert first == downloads() / "set.npz" and first.read_bytes() == BODY
    assert fetch(server.url, "set.npz", CHECKSUM) == first and len(server.requested) == 1


def test_md5_is_understood_too(server: Server) -> None:
    assert fetch(server.url, "set.npz", f"md5:{hashlib.md5(BODY).hexdigest()}").read_bytes() == BODY


def test_partial_download_is_continued(server: Server) -> None:
    downloads().mkdir(parents=True)
    (downloads() / "set.npz.part").write_bytes(BODY[:200_000])
    assert fetch(server.url, "set.npz", CHECKSUM).read_bytes() == BODY
    assert server.requested == ["bytes=200000-"] and server.sent == 100_000
    assert not (downloads() / "set.npz.part").exists()


def test_broken_connection_is_taken_up_where_it_stopped(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.fetch.PIECE", 25_000)
    server.breaks = 2
    assert fetch(server.url, "set.npz", CHECKSUM).read_bytes() == BODY
    assert server.requested == [None, "bytes=150000-", "bytes=225000-"] and server.sent == len(BODY)


def test_server_without_ranges_starts_over(server: Server) -> None:
    server.ranges = False
    downloads().mkdir(parents=True)
    (downloads() / "set.npz.part").write_bytes(b"left over")
    assert fetch(server.url, "set.npz", CHECKSUM).read_bytes() == BODY


def test_complete_but_unchecked_part_is_kept(server: Server) -> None:
    downloads().mkdir(parents=True)
    (downloads() / "set.npz.part").write_bytes(BODY)
    assert fetch(server.url, "set.npz", CHECKSUM).read_bytes() == BODY and server.sent == 0


def test_truncated_file_is_refused_and_the_next_try_is_clean(server: Server) -> None:
    server.body = BODY[:-1]
    with pytest.raises(OSError, match="truncated") as caught:
        fetch(server.url, "set.npz", CHECKSUM)
    digest = hashlib.sha256(BODY[:-1]).hexdigest()
    for expected in (server.url, "299,999 bytes", CHECKSUM, digest, "set.npz.part", "FEDLAB_MIRROR"):
        assert expected in str(caught.value)
    assert not list(downloads().glob("set.npz*"))
    server.body = BODY
    assert fetch(server.url, "set.npz", CHECKSUM).read_bytes() == BODY


def test_without_a_network_the_remedies_are_named(server: Server) -> None:
    server.breaks = 10
    with pytest.raises(ConnectionError, match="FEDLAB_MIRROR") as caught:
        fetch(server.url, "set.npz", CHECKSUM)
    for expected in (server.url, str(downloads() / "set.npz"), "bytes are kept"):
        assert expected in str(caught.value)
    server.server_close()
    with pytest.raises(ConnectionError, match="try again with a network"):
        fetch(server.url, "other.npz", CHECKSUM)


def test_mirror_comes_before_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    deep = mirror(monkeypatch, tmp_path / "mirror") / "some" / "where"
    deep.mkdir(parents=True)
    (deep / "set.npz").write_bytes(BODY)
    assert fetch(server.url, "set.npz", CHECKSUM) == deep / "set.npz" and not server.requested
    downloads().mkdir(parents=True)
    (downloads() / "set.npz").write_bytes(BODY)
    assert fetch(server.url, "set.npz", CHECKSUM) == downloads() / "set.npz"  # and the cache before the mirror


def test_without_a_published_checksum_the_reader_checks(server: Server) -> None:
    first = fetch(server.url, "set.zip", "")
    assert first == downloads() / "set.zip" and first.read_bytes() == BODY
    assert fetch(server.url, "set.zip", "") == first and len(server.requested) == 1


def test_files_are_located_by_name_in_cache_and_mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = mirror(monkeypatch, tmp_path / "mirror") / "some" / "where"
    for folder in (deep, downloads()):
        folder.mkdir(parents=True)
        (folder / "a.bin").write_bytes(b"a")
    (deep / "b.bin").write_bytes(b"b")
    found_at = [downloads() / "a.bin", deep / "a.bin"]
    assert locate({"a.bin", "b.bin", "c.bin"}) == {"a.bin": found_at, "b.bin": [deep / "b.bin"]}


def test_wrong_file_in_a_mirror_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, body in (("a", BODY[:-1]), ("b", BODY)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "set.npz").write_bytes(body)
    monkeypatch.setenv("FEDLAB_MIRROR", os.pathsep.join(str(tmp_path / name) for name in "ab"))
    with pytest.warns(UserWarning, match="skipped: its checksum is sha256:"):
        assert found("set.npz", CHECKSUM) == tmp_path / "b" / "set.npz"


def test_wrong_file_in_the_cache_is_replaced(server: Server) -> None:
    downloads().mkdir(parents=True)
    (downloads() / "set.npz").write_bytes(b"placed by hand")
    with pytest.warns(UserWarning, match="is skipped"):
        assert fetch(server.url, "set.npz", CHECKSUM).read_bytes() == BODY


# --- MedMNIST


def test_every_member_and_size_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    requested = []

    def record(*request: str) -> Path:
        requested.append(request)
        raise InterruptedError

    monkeypatch.setattr(medmnist, "fetch", record)
    for name, facts in medmnist.MEMBERS.items():
        assert list(facts["md5"]) == (["28", "64"] if name.endswith("3d") else ["28", "64", "128", "224"])
        assert facts["task"] in TASKS and len(set(facts["classes"])) == len(facts["classes"]) > 1
        for size in map(int, facts["md5"]):
            with pytest.raises(InterruptedError):
                data_prep.prepare(name, size=size)
    assert len(medmnist.MEMBERS) == 18
    assert len(requested) == len({checksum for *_, checksum in requested}) == 12 * 4 + 6 * 2
    for url, file, checksum in requested:
        assert re.fullmatch(r"[a-z]+mnist(3d)?(_64|_128|_224)?\.npz", file)
        assert url == f"https://zenodo.org/records/10519652/files/{file}?download=1"
        assert re.fullmatch("md5:[0-9a-f]{32}", checksum)


def test_only_dermamnist_is_non_commercial() -> None:
    assert [name for name, facts in medmnist.MEMBERS.items() if facts["licence"] != "CC BY 4.0"] == ["dermamnist"]
    assert medmnist.MEMBERS["dermamnist"]["licence"] == "CC BY-NC 4.0"


Arrays = dict[str, np.ndarray]


def made_up(shape: tuple[int, ...], classes: int, multilabel: bool = False, top: int = 255) -> Arrays:
    """A set of the published form: 24 + 6 + 9 cases."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 24), ("val", 6), ("test", 9)):
        arrays[f"{split}_images"] = rng.integers(0, top + 1, (n, *shape), np.uint8)
        labels = rng.integers(0, 2, (n, classes)) if multilabel else (np.arange(n) % classes)[:, None]
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
    return arrays


def publish(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, arrays: Arrays) -> None:
    """Put a made-up file into a mirror and its checksum into the facts."""
    file = mirror(monkeypatch, folder) / f"{name}.npz"
    np.savez_compressed(file, **arrays)
    facts = medmnist.MEMBERS[name] | {"md5": {"28": hashlib.md5(file.read_bytes()).hexdigest()}}
    monkeypatch.setitem(medmnist.MEMBERS, name, facts)


def stacked(arrays: Arrays, what: str) -> np.ndarray:
    return np.concatenate([arrays[f"{split}_{what}"] for split in ("train", "val", "test")])


@pytest.mark.parametrize("block", [1, 5000, 2**26])
@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [("pneumoniamnist", (28, 28), 2), ("bloodmnist", (28, 28, 3), 8), ("organmnist3d", (28, 28, 28), 11)],
)
def test_pixels_labels_and_splits_are_those_of_the_file(
    name: str, shape: tuple[int, ...], classes: int, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = made_up(shape, min(classes, 6))
    publish(monkeypatch, tmp_path / "mirror", name, arrays)
    monkeypatch.setattr(medmnist, "BLOCK", block)
    cases = read(data_prep.prepare(name))
    pixels = stacked(arrays, "images")
    channels_first = pixels.transpose(0, 3, 1, 2) if name == "bloodmnist" else pixels[:, None]
    assert np.array_equal(cases.images, channels_first) and cases.images.dtype == np.uint8
    assert np.array_equal(cases.labels, stacked(arrays, "labels")[:, 0])
    assert cases.table["split"].value_counts().to_dict() == {"train": 24, "val": 6, "test": 9}
    assert cases.table["case"].tolist()[:2] == ["train-00000", "train-00001"]
    assert cases.card["licence"] == "CC BY 4.0" and cases.card["options"] == {"size": 28, "limit": None}


def test_chest_findings_become_a_bit_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = made_up((28, 28), 14, multilabel=True)
    publish(monkeypatch, tmp_path / "mirror", "chestmnist", arrays)
    cases = read(data_prep.prepare("chestmnist"))
    assert cases.task == "multilabel"
    assert np.array_equal((cases.labels[:, None] >> np.arange(14)) & 1, stacked(arrays, "labels"))


def test_shapes_of_zeros_and_ones_become_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = made_up((28, 28, 28), 2, top=1)
    publish(monkeypatch, tmp_path / "mirror", "vesselmnist3d", arrays)
    cases = read(data_prep.prepare("vesselmnist3d"))
    assert np.array_equal(cases.images[:, 0], stacked(arrays, "images") * 255)


def test_what_is_prepared_is_the_same_bytes_and_found_again(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, tmp_path / "mirror", "pneumoniamnist", made_up((28, 28), 2))
    first, second = data_prep.prepare("pneumoniamnist"), data_prep.prepare("pneumoniamnist", tmp_path / "elsewhere")
    assert first == home / "pneumoniamnist"
    for file in ("cases.parquet", "images.npy", "card.json"):
        assert (first / file).read_bytes() == (second / file).read_bytes()
    monkeypatch.delenv("FEDLAB_MIRROR")
    assert data_prep.prepare("pneumoniamnist") == first  # needs neither mirror nor network
    with pytest.raises(FileExistsError, match="choose another folder"):
        data_prep.prepare("pneumoniamnist", first, limit=10)
    assert sorted(path.name for path in home.iterdir()) == ["pneumoniamnist"]  # nothing half-written is left


def test_a_failing_conversion_leaves_nothing(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = made_up((28, 28), 2)
    publish(monkeypatch, tmp_path / "mirror", "pneumoniamnist", arrays | {"test_images": arrays["test_images"] / 255})
    with pytest.raises(ValueError, match="float64 images: wanted uint8"):
        data_prep.prepare("pneumoniamnist")
    assert not list(home.iterdir())


@mirror_needed
@pytest.mark.parametrize("name", ["pneumoniamnist", "breastmnist", "retinamnist", "adrenalmnist3d"])
def test_official_files_are_accepted(name: str, monkeypatch: pytest.MonkeyPatch, official: str) -> None:
    monkeypatch.setenv("FEDLAB_MIRROR", official)
    cases = read(data_prep.prepare(name))
    assert cases.table["split"].value_counts().to_dict() == medmnist.MEMBERS[name]["splits"]
    assert set(cases.labels) == set(range(len(cases.classes))) and cases.images.max() == 255
    if name == "breastmnist":
        assert cases.classes[0] == "malignant" and (cases.labels == 0).sum() == 147 + 21 + 42


@pytest.fixture(scope="module")
def official() -> str:
    return os.environ["FEDLAB_MIRROR"]


# --- subsets


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_subset_keeps_every_class_in_proportion(counts: list[int], fraction: float) -> None:
    table = pd.DataFrame({"label": np.repeat(np.arange(len(counts)), counts), "split": "train"})
    limit = len(counts) + int(fraction * (sum(counts) - len(counts)))
    rows = writer.subset(table, limit, "multiclass")
    kept = table["label"].iloc[rows].value_counts().reindex(range(len(counts)), fill_value=0).to_numpy()
    ratio = (limit - len(counts)) / max(sum(counts) - len(counts), 1)
    assert len(rows) == limit and (np.diff(rows) > 0).all() and (kept >= 1).all()
    assert (abs(kept - 1 - ratio * (np.array(counts) - 1)) < 1).all()


def test_subset_keeps_every_class_of_every_split() -> None:
    table = pd.DataFrame({"label": [0] * 90 + [1] * 9 + [0], "split": ["train"] * 98 + ["val"] * 2})
    kept = table.iloc[writer.subset(table, 10, "binary")]
    assert len(kept) == 10 and set(zip(kept["split"], kept["label"], strict=True)) == {
        ("train", 0),
        ("train", 1),
        ("val", 0),
        ("val", 1),
    }
    with pytest.raises(ValueError, match="at least 4"):
        writer.subset(table, 3, "binary")


def test_subset_keeps_every_class_of_every_value_asked_for() -> None:
    table = pd.DataFrame({"label": 0, "site": ["a"] * 97 + [None, "b", "b"], "split": "train"})
    kept = table.iloc[writer.subset(table, 3, "binary", by=["site"])]
    assert kept["site"].fillna("none").tolist() == ["a", "none", "b"]
    with pytest.raises(ValueError, match="at least 3, one case of each class in each site"):
        writer.subset(table, 2, "binary", by=["site"])


def test_subset_keeps_rare_findings() -> None:
    rng = np.random.default_rng(0)
    present = rng.random((2000, 5)) < [0.5, 0.2, 0.1, 0.01, 0.005]
    table = pd.DataFrame({"label": present @ (1 << np.arange(5))})
    kept = present[writer.subset(table, 60, "multilabel")]
    assert len(kept) == 60 and kept.any(0).all() and (~kept.any(1)).any()


def test_no_limit_and_a_generous_one_keep_everything() -> None:
    table = pd.DataFrame({"label": [0, 1, 1, 0, 2]})
    for limit in (None, 5, 500):
        assert writer.subset(table, limit, "multiclass").tolist() == [0, 1, 2, 3, 4]


def test_limited_set_holds_rows_of_the_whole(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, tmp_path / "mirror", "pneumoniamnist", made_up((28, 28), 2))
    whole, part = read(data_prep.prepare("pneumoniamnist")), read(data_prep.prepare("pneumoniamnist", limit=12))
    rows = whole.table["case"].isin(part.table["case"]).to_numpy()
    assert len(part) == 12 == part.card["cases"] and (home / "pneumoniamnist_limit12").is_dir()
    assert np.array_equal(part.images, whole.images[rows]) and np.array_equal(part.labels, whole.labels[rows])


# --- MedNIST


def jpeg(value: int, edge: int = 64) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((edge, edge), value, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def thumbnails(folder: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(folder / "MedNIST.tar.gz", "w:gz") as tar:
        for name, body in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            tar.addfile(entry, io.BytesIO(body))


def publish_thumbnails(monkeypatch: pytest.MonkeyPatch, folder: Path, members: dict[str, bytes]) -> None:
    thumbnails(mirror(monkeypatch, folder), members)
    digest = hashlib.md5((folder / "MedNIST.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(mednist, "OFFICIAL", ("MedNIST.tar.gz", f"md5:{digest}"))


def test_thumbnails_are_sorted_by_path_whatever_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {f"MedNIST/{kind}/{i:06d}.jpeg": 40 * k + i for k, kind in enumerate(mednist.CLASSES) for i in range(3)}
    members = {name: jpeg(value) for name, value in reversed(values.items())}
    outside = {"../../outside.jpeg": b"x", "MedNIST/README.md": b"hello", "/Hand.jpeg": b"x"}
    publish_thumbnails(monkeypatch, tmp_path / "mirror", outside | members)
    with pytest.warns(UserWarning, match=r"MedNIST\.tar\.gz: 2 members lead out of its folder"):
        cases = read(data_prep.prepare("mednist"))
    assert cases.table["case"].tolist() == sorted(cases.table["case"]) and len(cases) == 18
    assert "Hand-000002" in set(cases.table["case"]) and "split" not in cases.table
    assert cases.classes == list(mednist.CLASSES) and np.array_equal(cases.labels, np.repeat(np.arange(6), 3))
    assert np.array_equal(cases.images[:, 0, 0, 0], [values[name] for name in sorted(values)])
    assert not list(tmp_path.rglob("outside.jpeg"))
    with pytest.warns(UserWarning, match="lead out"):
        few = read(data_prep.prepare("mednist", limit=6))
    assert set(few.labels) == set(range(6)) and few.images.shape == (6, 1, 64, 64)


def test_thumbnail_of_another_size_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_thumbnails(monkeypatch, tmp_path / "mirror", {"MedNIST/Hand/000007.jpeg": jpeg(1, 32)})
    with pytest.raises(ValueError, match=r"000007\.jpeg is L \(32, 32\)"):
        data_prep.prepare("mednist")


def test_repacked_archive_of_a_mirror_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = mirror(monkeypatch, tmp_path / "mirror")
    thumbnails(folder, {"MedNIST/Hand/000000.jpeg": jpeg(9)})
    archive = (folder / "MedNIST.tar.gz").rename(folder / mednist.REPACKED[0])
    digest = f"sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}"
    monkeypatch.setattr(mednist, "REPACKED", (archive.name, digest))
    cases = read(data_prep.prepare("mednist"))
    assert cases.card["checksums"] == {archive.name: digest} and cases.images[0, 0, 5, 5] == 9


# --- cards


def test_modality_and_structures_are_on_the_card_where_given() -> None:
    facts = {"title": "", "task": "binary", "classes": "ab", "licence": "", "source": "", "citation": ""}
    plain = writer.card("x", **facts, checksums={}, options={})
    assert "modality" not in plain and "structures" not in plain  # cards written before stay as they are
    expected = writer.card("x", **facts, checksums={}, options={}, modality="mri", structures=("background", "lesion"))
    assert expected == plain | {"modality": "mri", "structures": ["background", "lesion"]}


# --- names, options, the command


def test_a_new_script_is_all_that_a_dataset_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_source.py").write_text(
        "from pathlib import Path\n"
        "DATASETS = {'toy': 'a toy'}\n"
        "def prepare(name: str, folder: Path, *, limit=None, colour='red') -> Path:\n"
        "    return folder / colour\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(data_prep, "__path__", [*data_prep.__path__, str(tmp_path)])
    data_prep.sources.cache_clear()
    try:
        assert data_prep.sources()["toy"] == "a toy" and "mednist" in data_prep.sources()
        assert data_prep.options("toy") == {"limit": None, "colour": "red"}
        assert data_prep.prepare("toy", colour="blue").parts[-2:] == ("toy_colourblue", "blue")
        with pytest.raises(ValueError, match="did you mean 'colour'"):
            data_prep.prepare("toy", color="blue")
    finally:
        data_prep.sources.cache_clear()
        sys.modules.pop("data_prep.toy_source", None)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pneumonimnist"], "did you mean 'pneumoniamnist'"),
        (["pneumoniamnist", "--size", "63"], "choose one of 28, 64, 128, 224"),
        (["organmnist3d", "--size", "224"], "choose one of 28, 64"),
        (["pneumoniamnist", "--sise", "64"], "did you mean '--size'"),
        (["pneumoniamnist", "--limit", "many"], "limit is 'many'"),
        (["mednist", "--size", "64"], "has no option 'size'"),
        ([], "--list"),
        (["pneumoniamnist", "--folder"], "--folder"),
    ],
)
def test_command_tells_mistakes_in_one_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert expected in output.err and output.err.count("\n") == 1 and not output.out
    assert not home.exists()


def test_command_lists_and_prepares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    natural = {"blood_cells", "retinal_vessels", "hippocampus"}
    assert listed == list(data_prep.sources()) and {"mednist", *medmnist.MEMBERS, *natural} <= set(listed)
    publish(monkeypatch, tmp_path / "mirror", "pneumoniamnist", made_up((28, 28), 2))
    assert main(["pneumoniamnist", "--limit", "8", "--folder", str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "mine")]
    assert json.loads((tmp_path / "mine" / "card.json").read_text(encoding="utf-8"))["options"] == {
        "size": 28,
        "limit": 8,
    }
