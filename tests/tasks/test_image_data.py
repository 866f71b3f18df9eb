"""Images from where they lie, against torchvision's and scikit-learn's own readers. Every test has its own cache."""

import hashlib
import http.client
import io
import multiprocessing
import os
import pickle
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from tasks import image_data
from tasks.image_data import LAYOUTS, check_dataset, read_images
from tasks.resnet18 import ResNet18
from tests.support.commands import python

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = ROOT.parent / "shared/data/cifar10.tar.xz"
TEN = [f"class_{i}" for i in range(10)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tuner"


def refusal(dataset, folder):
    with pytest.raises(ValueError, match=r".") as caught:
        read_images(dataset, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same(images, train, test):
    for (x, y), (x_expected, y_expected) in ((images.train, train), (images.test, test)):
        assert (x.dtype, y.dtype, x.shape[1:]) == (np.uint8, np.int64, (3, 32, 32))
        np.testing.assert_array_equal(x, x_expected)
        np.testing.assert_array_equal(y, y_expected)


# torchvision's own layout.


def write_pickles(folder, name, rows=30, **changes):
    """``rows`` random images in each file, and a label each."""
    layout, rng = LAYOUTS[name], np.random.default_rng(0)
    kinds = 10 if name == "cifar10" else 100
    (folder / layout.folder).mkdir(parents=True)
    for file in (*layout.train, *layout.test):
        labels = {"labels": rng.integers(0, 10, rows).tolist()}
        if name == "cifar100":
            labels = {"coarse_labels": [0] * rows, "fine_labels": rng.integers(0, 100, rows).tolist()}
        content = {"data": rng.integers(0, 256, (rows, 3072), np.uint8), **labels, **changes}
        (folder / layout.folder / file).write_bytes(pickle.dumps(content))
    meta = {"label_names": list(range(kinds)), "fine_label_names": list(range(kinds))}
    (folder / layout.folder / ("meta" if name == "cifar100" else "batches.meta")).write_bytes(pickle.dumps(meta))
    return folder


@pytest.mark.parametrize(("name", "cls"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_pickles_equal_torchvisions_own_reading(tmp_path, monkeypatch, name, cls):
    write_pickles(tmp_path, name)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    train, test = (getattr(torchvision.datasets, cls)(tmp_path, train=train) for train in (True, False))
    read = read_images(name, tmp_path)
    assert_same(read, *((of.data.transpose(0, 3, 1, 2), of.targets) for of in (train, test)))
    assert (read.title, read.classes) == ({"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[name], len(train.classes))
    assert Path(read.source) == tmp_path / LAYOUTS[name].folder


def test_a_missing_pickle_is_named_before_anything_is_read(tmp_path):
    write_pickles(tmp_path, "cifar10")
    missing = tmp_path / "cifar-10-batches-py/data_batch_3"
    missing.unlink()
    with pytest.raises(ValueError, match=f"{missing} is missing"):
        check_dataset("cifar10", str(tmp_path))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: b"<html>404</html>",
        lambda raw: pickle.dumps([1, 2]),
        lambda raw: pickle.dumps({"data": np.zeros((3, 3072), np.uint8)}),
        lambda raw: pickle.dumps({"data": np.zeros((3, 3071), np.uint8), "labels": [0, 1, 2]}),
        lambda raw: pickle.dumps({"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1]}),
        lambda raw: pickle.dumps({"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1, 10]}),
        lambda raw: pickle.dumps({"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1, -1]}),
    ],
    ids=["cut", "empty", "page", "list", "no labels", "size", "fewer labels", "label 10", "label -1"],
)
def test_a_spoilt_pickle_is_named_and_loads_once_mended(tmp_path, cache, spoil):
    write_pickles(tmp_path, "cifar10")
    path = tmp_path / "cifar-10-batches-py/data_batch_4"
    raw = path.read_bytes()
    path.write_bytes(spoil(raw))
    assert str(path) in refusal("cifar10", tmp_path)
    assert not list(cache.glob("*.npz"))
    path.write_bytes(raw)
    assert len(read_images("cifar10", tmp_path).train[0]) == 150


# A folder per class.


def random_image(rng, mode, size):
    """One of ``mode``, of ``size`` = (width, height)."""
    shape = (*size[::-1], len(mode)) if len(mode) > 1 else size[::-1]
    image = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
    if mode == "P":
        image.putpalette(rng.integers(0, 256, 768, np.uint8).tobytes())
    assert image.mode == mode
    return image


def write_folders(folder, classes=TEN, each=2, size=(32, 32)):
    """Lossless random images: colour, grey, with a palette, with transparency."""
    rng = np.random.default_rng(1)
    for split in ("train", "test"):
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for i in range(each):
                mode = ("RGB", "L", "P", "RGBA")[rng.integers(4)]
                random_image(rng, mode, size).save(folder / split / name / f"{i}.{('png', 'PNG')[i % 2]}")
    return folder


def by_torchvision(folder):
    found = []
    for split in ("train", "test"):
        images = torchvision.datasets.ImageFolder(folder / split)
        found.append((np.stack([np.asarray(image).transpose(2, 0, 1) for image, _ in images]), images.targets))
    return found


def counting(monkeypatch):
    """How often images have been decoded."""
    calls, decode = [], image_data._decode
    monkeypatch.setattr(image_data, "_decode", lambda *args: calls.append(args) or decode(*args))
    return calls


def test_folders_equal_torchvisions_image_folder_pixel_for_pixel(tmp_path):
    write_folders(tmp_path, each=3)
    (tmp_path / "train/class_0/notes.txt").write_text("no image")
    train, test = by_torchvision(tmp_path)
    (tmp_path / "train/.hidden").mkdir()
    for _ in range(2):  # decoded, then from the cache
        read = read_images("cifar10", tmp_path)
        assert_same(read, train, test)
        assert (read.title, read.source, read.classes) == ("CIFAR-10", str(tmp_path), 10)


def test_a_folder_of_ones_own_is_resized_and_has_any_classes(tmp_path):
    write_folders(tmp_path, ["b", "a"], size=(64, 48))
    for split in ("train", "test"):  # halves of one colour each: what is left is left, what is right is right
        image = Image.new("RGB", (64, 64), (200, 0, 0))
        image.paste((0, 0, 100), (32, 0, 64, 64))
        image.save(tmp_path / split / "a" / "0.png")
    read = read_images("folder", tmp_path)
    assert read.classes == 2 and read.train[0].shape == (4, 3, 32, 32) and read.train[1].tolist() == [0, 0, 1, 1]
    halves = read.train[0][0]
    assert (halves[:, :, :15] == np.array([200, 0, 0])[:, None, None]).all()
    assert (halves[:, :, 17:] == np.array([0, 0, 100])[:, None, None]).all()


@pytest.mark.parametrize("size", [(31, 32), (32, 33), (64, 64)])
def test_a_named_dataset_refuses_an_image_of_another_size(tmp_path, size):
    write_folders(tmp_path)
    random_image(np.random.default_rng(0), "RGB", size).save(tmp_path / "test/class_7/1.PNG")
    assert f"{tmp_path}/test/class_7/1.PNG is {size[0]}x{size[1]}, expected 32x32" in refusal("cifar10", tmp_path)


def test_classes_that_do_not_fit_are_refused_before_anything_is_read(tmp_path):
    def said(dataset, folder):
        with pytest.raises(ValueError, match="dataset") as caught:
            check_dataset(dataset, str(folder))
        return str(caught.value)

    nine, one, other = (tmp_path / name for name in ("nine", "one", "other"))
    write_folders(nine, TEN[:9])
    assert "has 10 classes, but" in (text := said("cifar10", nine)) and "9 folders" in text
    assert "has 100 classes" in said("cifar100", nine)
    check_dataset("folder", str(nine))
    assert "1 folders; expected one per class" in said("folder", write_folders(one, ["a"]))
    write_folders(other, TEN)
    (other / "test/class_3").rename(other / "test/class_x")
    for dataset in ("cifar10", "folder"):
        assert "folders of the same names" in said(dataset, other)
    for odd in (tmp_path, tmp_path / "no such", other / "train/class_0/0.png"):
        assert all(part in said("cifar10", odd) for part in (str(odd), "cifar-10-batches-py", "train/<class>/*.jpg"))
    with pytest.raises(ValueError, match="folder: needs --data-dir"):
        check_dataset("folder", None)


def test_a_class_without_images_is_named(tmp_path):
    write_folders(tmp_path)
    for i in range(2):
        (tmp_path / f"train/class_4/{i}.{('png', 'PNG')[i]}").unlink()
    assert f"{tmp_path}/train/class_4 has no images" in refusal("cifar10", tmp_path)


def test_what_torchvision_unpacks_may_be_named_itself(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    with pytest.raises(ValueError, match="data_batch_1 is missing"):
        check_dataset("cifar10", str(folder))


def jpeg(rng):
    file = io.BytesIO()
    random_image(rng, "RGB", (32, 32)).save(file, "jpeg")
    return file.getvalue()


SPOILT = {
    "cut.jpg": lambda raw: raw[: len(raw) // 2],
    "cut.png": lambda raw: raw[: len(raw) // 2],
    "page.jpg": lambda raw: b"<!DOCTYPE html><html>not found</html>",
    "empty.jpg": lambda raw: b"",
}


@pytest.mark.parametrize("name", [*SPOILT, "folder.jpg", "link.jpg", "forbidden.jpg"])
def test_an_image_that_cannot_be_read_is_named_and_loads_once_mended(tmp_path, cache, monkeypatch, name):
    calls = counting(monkeypatch)
    write_folders(tmp_path)
    path = tmp_path / "train/class_5" / name
    raw = (tmp_path / "train/class_5/0.png").read_bytes() if name == "cut.png" else jpeg(np.random.default_rng(2))
    if name == "folder.jpg":
        path.mkdir()
    elif name == "link.jpg":
        path.symlink_to("nowhere.jpg")
    else:
        path.write_bytes(SPOILT.get(name, bytes)(raw))
    if name == "forbidden.jpg":
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read everything")
    assert str(path) in refusal("cifar10", tmp_path)
    assert not list(cache.glob("*.npz"))
    path.rmdir() if path.is_dir() else path.unlink()
    path.write_bytes(raw)
    expected = by_torchvision(tmp_path)
    calls.clear()
    for _ in range(2):
        assert_same(read_images("cifar10", tmp_path), *expected)
    assert len(calls) == 2 and list(cache.glob("*.npz"))  # train and test, once


# The cache of what was decoded.


def test_a_changed_file_is_read_anew_and_a_new_one_too(tmp_path, monkeypatch):
    calls = counting(monkeypatch)
    write_folders(tmp_path)
    read_images("cifar10", tmp_path)
    path = tmp_path / "train/class_5/0.png"
    before = path.stat()
    random_image(np.random.default_rng(9), "RGB", (32, 32)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert_same(read_images("cifar10", tmp_path), *by_torchvision(tmp_path))
    (tmp_path / "test/class_0/2.png").write_bytes(path.read_bytes())
    assert_same(read_images("cifar10", tmp_path), *by_torchvision(tmp_path))
    assert len(calls) == 6


def test_folders_resized_and_as_they_are_do_not_share_a_cache(tmp_path):
    write_folders(tmp_path, size=(40, 40))
    assert len(read_images("folder", tmp_path).train[0]) == 20
    assert "is 40x40" in refusal("cifar10", tmp_path)


def test_a_damaged_cache_is_made_anew(tmp_path, cache, monkeypatch):
    calls = counting(monkeypatch)
    write_folders(tmp_path)
    read_images("cifar10", tmp_path)
    (kept,) = cache.glob("*.npz")
    kept.write_bytes(kept.read_bytes()[:-500])
    for _ in range(2):
        assert_same(read_images("cifar10", tmp_path), *by_torchvision(tmp_path))
    assert len(calls) == 4


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    write_folders(tmp_path / "data")
    assert_same(read_images("cifar10", tmp_path / "data"), *by_torchvision(tmp_path / "data"))


def read_slowly(folder, log):
    decode = image_data._decode

    def slowly(*args):
        with log.open("a") as file:
            file.write("x")
        time.sleep(0.2)
        return decode(*args)

    image_data._decode = slowly
    read = read_images("cifar10", folder)
    log.with_name(f"{log.name}.{os.getpid()}").write_text(hashlib.sha256(read.train[0].tobytes()).hexdigest())


def test_processes_that_start_together_decode_once(tmp_path):
    write_folders(tmp_path / "data")
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=read_slowly, args=(tmp_path / "data", log)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text() == "xx"  # train and test
    expected = hashlib.sha256(by_torchvision(tmp_path / "data")[0][0].tobytes()).hexdigest()
    assert [path.read_text() for path in tmp_path.glob("log.*")] == [expected] * 3


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.exists(), reason="needs the archive of CIFAR-10's images")
def test_all_of_cifar_10_loads_once_and_then_from_the_cache(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    subprocess.run(["tar", "-xJf", ARCHIVE, "-C", tmp_path / "data"], check=True)  # quicker than tarfile
    calls = counting(monkeypatch)
    first = read_images("cifar10", tmp_path / "data")
    task = ResNet18(
        width=1, dataset="cifar10", normalise=True, augment=True, metric="val_acc", mode="max", batch_size=2
    )
    again = task.load(tmp_path / "data")
    assert len(calls) == 2  # train and test, once
    assert again.name == "CIFAR-10"
    for split, each in {"train": 4500, "val": 500, "test": 1000}.items():
        assert np.bincount(again.splits[split][1]).tolist() == [each] * 10
        assert again.splits[split][0].shape == (10 * each, 3, 32, 32)
    np.testing.assert_array_equal(again.splits["test"][0], first.test[0])
    names = sorted(path.name for path in (tmp_path / "data/train").iterdir())
    for label, number in ((0, 0), (7, 4321)):
        path = sorted((tmp_path / "data/train" / names[label]).iterdir())[number]
        np.testing.assert_array_equal(
            first.train[0][5000 * label + number], np.asarray(Image.open(path)).transpose(2, 0, 1)
        )


# To be downloaded.


@pytest.fixture
def network(monkeypatch):
    """Answers requests by what is appended to it: an error, or the bytes."""
    answers = []

    def urlopen(request, *_, **__):
        answer = answers[-1]
        if isinstance(answer, Exception):
            raise answer
        response = io.BytesIO(answer)
        response.url, response.length = getattr(request, "full_url", request), len(answer)
        return response

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return answers


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize(
    "answer",
    [
        urllib.error.URLError("no route\nto host"),
        TimeoutError("timed out"),
        ConnectionResetError("reset"),
        http.client.IncompleteRead(b"some"),
        b"<html>proxy</html>",
        b"",
    ],
    ids=lambda answer: type(answer).__name__ + str(len(str(answer))),
)
def test_without_network_the_sentence_names_every_way_out(network, cache, name, answer):
    network.append(answer)
    said = refusal(name, None)
    for part in ("--data-dir", LAYOUTS[name].folder, "train/<class>/*.jpg", "--dataset digits", LAYOUTS[name].title):
        assert part in said
    assert not list(cache.glob("*.npz"))


def test_a_file_that_is_not_whole_is_not_taken_for_one(network, cache, tmp_path):
    write_pickles(cache / "torchvision", "cifar10")  # as an unpacking that was cut off might leave it
    network.append(urllib.error.URLError("no route to host"))
    assert "cannot be downloaded" in refusal("cifar10", None)
    network.append(b"\x1f\x8b half an archive")
    assert "cannot be downloaded" in refusal("cifar10", None)
    network.append(urllib.error.URLError("no route to host"))
    assert "cannot be downloaded" in refusal("cifar10", None)


def test_what_was_downloaded_and_checked_is_read(network, cache, tmp_path, monkeypatch):
    source = write_pickles(tmp_path / "source", "cifar10")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.add(source / "cifar-10-batches-py", "cifar-10-batches-py")
    cls = torchvision.datasets.CIFAR10

    def md5(name):
        return hashlib.md5((source / "cifar-10-batches-py" / name).read_bytes()).hexdigest()

    monkeypatch.setattr(cls, "tgz_md5", hashlib.md5(file.getvalue()).hexdigest())
    for files in (cls.train_list, cls.test_list):
        monkeypatch.setattr(
            cls, "train_list" if files is cls.train_list else "test_list", [[f, md5(f)] for f, _ in files]
        )
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": md5("batches.meta")})
    network.append(file.getvalue())
    expected = read_images("cifar10", source)
    assert_same(read_images("cifar10", None), expected.train, expected.test)
    network.append(urllib.error.URLError("no route to host"))  # not asked again
    assert_same(read_images("cifar10", None), expected.train, expected.test)


# Without any file.


def test_digits_are_scikit_learns_enlarged():
    digits = read_images("digits", None)
    pixels, labels = load_digits(return_X_y=True)
    images, found = (np.concatenate(parts) for parts in zip(digits.train, digits.test, strict=True))
    assert images.shape == (1797, 3, 32, 32) and images.max() == 255
    assert (images == images[:, :1]).all()
    blocks = images[:, 0].reshape(-1, 8, 4, 8, 4)
    assert (blocks == blocks[:, :, :1, :, :1]).all()
    small = np.rint(blocks.mean(axis=(2, 4)) * 16 / 255).reshape(-1, 64)

    def ordered(pixels, labels):
        return sorted(map(tuple, np.column_stack([pixels, labels]).astype(int).tolist()))

    assert ordered(small, found) == ordered(pixels, labels)
    held = [np.flatnonzero(labels == label)[-round(0.2 * (labels == label).sum()) :] for label in range(10)]
    np.testing.assert_array_equal(digits.test[1], labels[np.sort(np.concatenate(held))])


def test_digits_take_no_heed_of_a_folder(tmp_path):
    assert_same(read_images("digits", tmp_path / "none"), *(lambda d: (d.train, d.test))(read_images("digits", None)))


# The check before a run.


@pytest.mark.parametrize("name", ["cifar", "CIFAR10", "", "none"])
def test_an_unknown_dataset_is_refused_with_the_known_ones(name):
    for call in (check_dataset, read_images):
        with pytest.raises(ValueError, match="expected one of cifar10, cifar100, digits, folder") as caught:
            call(name, None)
        assert repr(name) in str(caught.value)


def test_the_check_needs_no_torch_and_is_quick(tmp_path):
    write_folders(tmp_path)
    script = f"""
import sys, time
from tasks.image_data import check_dataset
began = time.perf_counter()
for dataset, folder in (("cifar10", {str(tmp_path)!r}), ("cifar10", None), ("digits", None)):
    check_dataset(dataset, folder)
print(time.perf_counter() - began, *(name in sys.modules for name in ("torch", "torchvision", "sklearn", "PIL")))
"""
    done = python(script)
    seconds, *loaded = done.out.split()
    assert (loaded, done.err) == (["False"] * 4, "") and float(seconds) < 0.5
