"""Images from where they lie, against torchvision's and scikit-learn's own readers. Every test has its own cache."""

import hashlib
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from tasks.image_data import LAYOUTS, check_dataset, read_images
from tests.support.commands import python
from tests.support.images import (
    TEN,
    assert_same,
    by_torchvision,
    counting,
    random_image,
    refusal,
    vouch_for,
    write_folders,
    write_pickles,
)

pytestmark = pytest.mark.usefixtures("cache")


# torchvision's own layout.


@pytest.mark.parametrize(("name", "cls"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_pickles_equal_torchvisions_own_reading(tmp_path, monkeypatch, name, cls):
    vouch_for(monkeypatch, write_pickles(tmp_path, name), name)
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
def test_a_spoilt_pickle_is_named_and_loads_once_mended(tmp_path, cache, monkeypatch, spoil):
    vouch_for(monkeypatch, write_pickles(tmp_path, "cifar10"), "cifar10")
    path = tmp_path / "cifar-10-batches-py/data_batch_4"
    raw = path.read_bytes()
    path.write_bytes(spoil(raw))
    assert f"{path} is not CIFAR-10's, or damaged" in refusal("cifar10", tmp_path)
    vouch_for(monkeypatch, tmp_path, "cifar10")  # even so
    assert str(path) in refusal("cifar10", tmp_path)
    assert not list(cache.glob("*.npz"))
    path.write_bytes(raw)
    vouch_for(monkeypatch, tmp_path, "cifar10")
    assert len(read_images("cifar10", tmp_path).train[0]) == 150


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_pickle_that_is_not_torchvisions_is_not_loaded(tmp_path, name):
    layout = LAYOUTS[name]
    files = [*layout.train, *layout.test]
    for file in (files[0], files[-1]):
        folder = tmp_path / file
        write_pickles(folder, name)
        path = folder / layout.folder / file
        path.write_bytes(pickle.dumps(Harmful(tmp_path / "harm")))
        with pytest.MonkeyPatch.context() as patch:
            vouch_for(patch, folder, name)
            cls = getattr(torchvision.datasets, layout.torchvision)
            for listed in (cls.train_list, cls.test_list):
                for entry in listed:
                    entry[1] = "0" * 32 if entry[0] == file else entry[1]
            found = hashlib.md5(path.read_bytes()).hexdigest()
            assert refusal(name, folder) == (
                f"{path} is not {layout.title}'s, or damaged: its md5 checksum is {found}, torchvision's {'0' * 32}"
            )
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_checksums_are_of_the_files_that_are_read(name):
    layout = LAYOUTS[name]
    cls = getattr(torchvision.datasets, layout.torchvision)
    assert tuple(file for file, _ in cls.train_list) == layout.train
    assert tuple(file for file, _ in cls.test_list) == layout.test


# A folder per class.


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
