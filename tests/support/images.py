"""Images on disk, as torchvision unpacks them and a folder per class, and what reading them must give."""

import hashlib
import pickle

import numpy as np
import pytest
import torchvision
from PIL import Image

from tasks import image_data
from tasks.image_data import LAYOUTS, read_images

TEN = [f"class_{i}" for i in range(10)]


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


def vouch_for(monkeypatch, folder, name):
    """torchvision takes these pickles for the dataset's own."""
    layout = LAYOUTS[name]
    cls = getattr(torchvision.datasets, layout.torchvision)

    def listed(names):
        return [[file, hashlib.md5((folder / layout.folder / file).read_bytes()).hexdigest()] for file in names]

    monkeypatch.setattr(cls, "train_list", listed(layout.train))
    monkeypatch.setattr(cls, "test_list", listed(layout.test))
    ((_, md5),) = listed([cls.meta["filename"]])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": md5})
    return folder


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
