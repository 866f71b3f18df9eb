"""What was decoded is kept: until a file changes, for all processes, whatever becomes of the cache."""

import hashlib
import multiprocessing
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks import image_data
from tasks.image_data import read_images
from tasks.resnet18 import ResNet18
from tests.support.images import assert_same, by_torchvision, counting, random_image, refusal, write_folders

ARCHIVE = Path(__file__).resolve().parents[3] / "shared/data/cifar10.tar.xz"

pytestmark = pytest.mark.usefixtures("cache")


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
