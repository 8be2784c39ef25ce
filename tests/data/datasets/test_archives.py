"""Published archives, unpacked once: tiny ones of the same layout, made here."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from dd_plugins import RealData, get_dataset
from dd_plugins.data.datasets import archives, cub200, imagenette, tiny_imagenet
from dd_plugins.data.datasets.archives import Archive
from dd_plugins.errors import DataError, OptionError


def picture(value: int, size: tuple[int, int] = (64, 64), form: str = "PNG") -> bytes:
    """Return a file of one colour; lossless, whatever its ending says."""
    file = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(file, form)
    return file.getvalue()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def packed(file: Path, members: dict[str, bytes]) -> str:
    """Write an archive; return its MD5."""
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as made:
            for name, content in members.items():
                made.writestr(name, content)
    else:
        with tarfile.open(file, "w:gz") as made_tar:
            for name, content in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                made_tar.addfile(entry, io.BytesIO(content))
    return hashlib.md5(file.read_bytes()).hexdigest()


def tiny_imagenet_members() -> dict[str, bytes]:
    members = {
        "words.txt": b"n01\tgoldfish, Carassius\nn02\tcrane\nn03\tcrane, derrick\n",
        "wnids.txt": b"n02\nn03\nn01\n",
        "val/val_annotations.txt": b"val_0.JPEG\tn03\t0\t1\t2\t3\n"
        b"val_1.JPEG\tn01\t0\t1\t2\t3\nval_2.JPEG\tn02\t0\t1\t2\t3\n",
        "test/images/test_0.JPEG": picture(9),
    }
    for label, name in enumerate(("n01", "n02", "n03")):
        members[f"train/{name}/{name}_boxes.txt"] = b"n01_0.JPEG\t0\t0\t62\t44\n"
        for n in range(2):
            members[f"train/{name}/images/{name}_{n}.JPEG"] = picture(10 * label + n)
        members[f"val/images/val_{label}.JPEG"] = picture(100 + label)
    return {f"tiny-imagenet-200/{name}": each for name, each in members.items()}


def write_tiny_imagenet(root: Path, patch: pytest.MonkeyPatch) -> Path:
    file = root / "tiny-imagenet-200.zip"
    md5 = packed(file, tiny_imagenet_members())
    patch.setattr(tiny_imagenet, "_ARCHIVE", Archive(file.name, file.stem, md5=md5))
    return file


def values(images: RealData) -> list[int]:
    return images.train.images[:, 0, 5, 5].tolist()


def test_tiny_imagenet_is_tested_on_its_validation_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_imagenet(tmp_path, monkeypatch)
    data = get_dataset("tiny-imagenet", data_root=tmp_path)
    assert data.class_names == ("goldfish", "crane (n02)", "crane (n03)")
    assert (data.image_shape, data.mirror) == ((3, 64, 64), True)
    assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert values(data) == [0, 1, 10, 11, 20, 21]
    test = data.read_test()
    assert test.labels.tolist() == [2, 0, 1]
    assert test.images[:, 0, 0, 0].tolist() == [100, 101, 102]
    small = get_dataset("tiny-imagenet", data_root=tmp_path, image_size=16)
    assert (small.image_shape, small.preprocessing) == ((3, 16, 16), "zca")


def test_an_archive_is_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_tiny_imagenet(tmp_path, monkeypatch)
    first = get_dataset("tiny-imagenet", data_root=tmp_path)
    assert names_in(tmp_path) == ["tiny-imagenet-200", archive.name]
    archive.unlink()  # what is unpacked needs it no longer
    again = get_dataset("tiny-imagenet", data_root=tmp_path)
    assert again.fingerprint == first.fingerprint


def test_another_archive_of_that_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_tiny_imagenet(tmp_path, monkeypatch)
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(DataError, match="must be the published file, with MD5") as told:
        get_dataset("tiny-imagenet", data_root=tmp_path)
    assert str(told.value).isprintable()
    assert names_in(tmp_path) == [archive.name], "nothing is unpacked"


@pytest.mark.parametrize("cut", [10, 2_000])
def test_a_damaged_archive_leaves_nothing(
    cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_tiny_imagenet(tmp_path, monkeypatch)
    archive.write_bytes(archive.read_bytes()[:-cut])
    monkeypatch.setattr(archives, "check_md5", lambda *_: None)
    with pytest.raises(DataError, match=f"cannot unpack {archive}: ") as told:
        get_dataset("tiny-imagenet", data_root=tmp_path)
    assert str(told.value).isprintable()
    assert names_in(tmp_path) == [archive.name]


def test_an_archive_stays_inside_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    file = root / "CUB_200_2011.tgz"
    md5 = packed(file, {"../escaped.txt": b"out", "CUB_200_2011/classes.txt": b""})
    monkeypatch.setattr(cub200, "_ARCHIVE", Archive(file.name, file.stem, md5=md5))
    with pytest.raises(DataError, match="cannot unpack"):
        get_dataset("cub200", data_root=root, image_size=8)
    assert names_in(tmp_path) == ["root"]


def test_a_folder_of_another_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny-imagenet-200" / "train" / "n01" / "images").mkdir(parents=True)
    with pytest.raises(DataError, match="does not hold Tiny-ImageNet as") as told:
        get_dataset("tiny-imagenet", data_root=tmp_path)
    assert str(told.value).isprintable()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tiny-imagenet", "tiny-imagenet-200.zip; pass --download to fetch it"),
        ("cub200", "CUB_200_2011.tgz; pass --download to fetch it"),
        ("imagenette", "imagenette2-160.tgz or .*; pass --download to fetch it"),
    ],
)
def test_missing_data_say_what_is_expected(
    name: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=told) as refused:
        get_dataset(name, data_root=tmp_path, image_size=32)
    assert f"{name!r} under {tmp_path}" in str(refused.value)
    assert names_in(tmp_path) == []
    monkeypatch.delenv("DD_DATA", raising=False)
    with pytest.raises(OptionError, match="--data-root"):
        get_dataset(name, image_size=32)


@pytest.fixture
def published(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Serve a folder; yield it and its address."""
    folder = tmp_path / "published"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_download_is_checked(
    tmp_path: Path, published: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = published
    file = write_tiny_imagenet(folder, monkeypatch)
    archive = replace(tiny_imagenet._ARCHIVE, url=f"{address}/{file.name}")
    monkeypatch.setattr(tiny_imagenet, "_ARCHIVE", archive)
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(DataError, match="pass --download to fetch it"):
        get_dataset("tiny-imagenet", data_root=root)
    assert names_in(root) == [], "nothing is fetched unless asked"
    data = get_dataset("tiny-imagenet", data_root=root, download=True)
    assert values(data) == [0, 1, 10, 11, 20, 21]
    nobody = "http://127.0.0.1:9/tiny.zip"
    for wrong in (replace(archive, md5="0" * 32), replace(archive, url=nobody)):
        monkeypatch.setattr(tiny_imagenet, "_ARCHIVE", wrong)
        other = tmp_path / "other"
        other.mkdir(exist_ok=True)
        with pytest.raises(DataError, match="cannot download data set") as told:
            get_dataset("tiny-imagenet", data_root=other, download=True)
        assert str(told.value).isprintable()
        assert names_in(other) == []


def test_cub200_has_its_own_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    images = [(kinds[n % 2], f"bird_{n}.jpg") for n in range(8)]
    members = {
        "classes.txt": "".join(f"{n} {kind}\n" for n, kind in enumerate(kinds, 1)),
        "images.txt": "".join(f"{n} {a}/{b}\n" for n, (a, b) in enumerate(images, 1)),
        "image_class_labels.txt": "".join(
            f"{n} {(n - 1) % 2 + 1}\n" for n in range(1, 9)
        ),
        "train_test_split.txt": "".join(f"{n} {int(n <= 5)}\n" for n in range(1, 9)),
    }
    files = {
        f"CUB_200_2011/images/{kind}/{name}": picture(n, (30 + n, 20))
        for n, (kind, name) in enumerate(images)
    }
    texts = {f"CUB_200_2011/{name}": text.encode() for name, text in members.items()}
    archive = tmp_path / "CUB_200_2011.tgz"
    md5 = packed(archive, {**texts, **files, "attributes.txt": b"1 has_bill"})
    monkeypatch.setattr(
        cub200, "_ARCHIVE", Archive(archive.name, archive.stem, md5=md5)
    )
    with pytest.raises(OptionError, match="images of many sizes: pass --image-size"):
        get_dataset("cub200", data_root=tmp_path)
    data = get_dataset("cub200", data_root=tmp_path, image_size=16)
    assert data.class_names == ("Black_footed_Albatross", "Laysan_Albatross")
    assert (data.image_shape, data.mirror) == ((3, 16, 16), True)
    assert values(data) == [0, 1, 2, 3, 4]
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0]
    assert data.read_test().labels.tolist() == [1, 0, 1]


def test_imagenette_is_tested_on_its_validation_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {"imagenette2-160/noisy_imagenette.csv": b"path"}
    for label, name in enumerate(imagenette._NAMES):
        for split, count in (("train", 2), ("val", 1)):
            for n in range(count):
                value = 10 * label + n + (100 if split == "val" else 0)
                where = f"imagenette2-160/{split}/{name}/{name}_{n}.JPEG"
                members[where] = picture(value, (170, 160))
    md5 = packed(tmp_path / "imagenette2-160.tgz", members)
    monkeypatch.setitem(imagenette._BY_SIDE, 160, ("imagenette2-160", md5))
    data = get_dataset("imagenette", data_root=tmp_path, image_size=64)
    assert data.name == "imagenette"
    assert (data.image_shape, data.num_classes) == ((3, 64, 64), 10)
    assert data.class_names[:2] == ("tench", "English springer")
    assert len(data.train.labels) == 20, "none is held out of so few"
    assert data.read_test().images[:, 0, 5, 5].tolist() == list(range(100, 200, 10))
    with pytest.raises(DataError, match="expected imagenette2-320/ or"):
        get_dataset("imagenette", data_root=tmp_path, image_size=200)


def test_a_folder_of_imagenet_is_read_at_64_pixels(tmp_path: Path) -> None:
    for split, count in (("train", 12), ("val", 2)):
        for name in ("n01440764", "n01443537"):
            folder = tmp_path / "ImageNet" / split / name
            folder.mkdir(parents=True)
            for n in range(count):
                (folder / f"{name}_{n}.JPEG").write_bytes(
                    picture(n, (80 + n, 100), "JPEG")
                )
    data = get_dataset("folder:ImageNet", data_root=tmp_path, image_size=64)
    assert data.image_shape == (3, 64, 64)
    assert (len(data.train.labels), len(data.validation.labels)) == (22, 2)
    assert len(data.read_test().labels) == 4
