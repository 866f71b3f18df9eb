"""Images of 32x32 as arrays, from where they lie; without torch, so that it checks fast."""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path

import numpy as np
from filelock import FileLock

from tasks.cache import Arrays, cached_arrays
from tasks.splits import hold_out
from tasks.user_folders import cache_directory

SIZE = 32
DIGITS_TEST_SHARE = 0.2
DOWNLOAD_TIMEOUT_S = 20.0
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
WIDE = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""PIL's modes of one channel with more than 8 bits. (Of colours PIL itself takes the upper 8 of 16 bits.)"""
WHITE_OF_16_BITS = 2**16 - 1
DECODED = 2
"""Changes when images are decoded otherwise: what was kept in the cache before is not used then."""
Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Layout:
    """A dataset as torchvision lays it out.

    Attributes:
        title: its name for a person.
        classes: how many it has.
        folder: what torchvision unpacks.
        train, test: the files in it.
        labels: what a file calls them.
        torchvision: the class in ``torchvision.datasets``.
    """

    title: str
    classes: int
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: str
    torchvision: str


BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
LAYOUTS = {
    "cifar10": Layout("CIFAR-10", 10, "cifar-10-batches-py", BATCHES, ("test_batch",), "labels", "CIFAR10"),
    "cifar100": Layout("CIFAR-100", 100, "cifar-100-python", ("train",), ("test",), "fine_labels", "CIFAR100"),
}
DATASETS = (*LAYOUTS, "digits", "folder")


@dataclass(frozen=True)
class Images:
    """What was read.

    Attributes:
        title: the dataset's name for a person.
        source: where it was read.
        classes: how many there are.
        train, test: images (rows, 3, 32, 32), uint8, and labels (rows,), int64.
    """

    title: str
    source: str
    classes: int
    train: Rows
    test: Rows


def check_dataset(dataset: str, data_dir: str | None) -> None:
    """Raise ``ValueError`` where ``read_images`` is sure to: an unknown name, or a folder without the dataset."""
    with _named(dataset):
        _reader(dataset, None if data_dir is None else Path(data_dir))


def read_images(dataset: str, data_dir: Path | None) -> Images:
    """The images of ``dataset``.

    Args:
        dataset: "cifar10" or "cifar100", as torchvision unpacks them or as folders of images; "folder", any folders
            of images, resized to 32x32; "digits", scikit-learn's 8x8 digits, each pixel four times in both directions.
        data_dir: where they lie; ``None``: torchvision downloads them, once per machine.

    Warns:
        UserWarning: all images of a split are the same, or nothing can be seen on any of them.

    Raises:
        ValueError: there is no such dataset, it is neither in the folder nor to be had, or a file cannot be read, with
            a sentence that names it.
    """
    with _named(dataset):
        images = _reader(dataset, data_dir)()
    for split, (pixels, _) in (("training", images.train), ("test", images.test)):
        if all((image == pixels[0]).all() for image in pixels):
            warnings.warn(f"{images.title}: all {len(pixels)} {split} images are the same", stacklevel=2)
        elif all(image.min() == image.max() for image in pixels):
            warnings.warn(f"{images.title}: each {split} image is of one brightness", stacklevel=2)
    return images


@contextmanager
def _named(dataset: str) -> Iterator[None]:
    """A folder that cannot be listed, or a link to nowhere, is named."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"dataset {dataset}: {error.filename} cannot be read ({error.strerror})") from None


def _reader(dataset: str, data_dir: Path | None) -> Callable[[], Images]:
    """What will read the dataset, which is there, or to be downloaded, as far as one can see without reading."""
    if dataset not in DATASETS:
        raise ValueError(f"unknown dataset {dataset!r}; expected one of {', '.join(DATASETS)}")
    if dataset == "digits":
        return _digits
    layout = LAYOUTS.get(dataset)
    if data_dir is not None:
        return _folder_reader(dataset, layout, data_dir)
    if layout is None:
        raise ValueError("dataset folder: needs --data-dir DIR with DIR/train/<class>/*.jpg and DIR/test/<class>/*.jpg")
    return lambda: _folder_reader(dataset, layout, _downloaded(layout))()


def _folder_reader(dataset: str, layout: Layout | None, folder: Path) -> Callable[[], Images]:
    if layout is not None and folder.name == layout.folder:
        folder = folder.parent
    if layout is not None and (folder / layout.folder).is_dir():
        missing = [name for name in (*layout.train, *layout.test) if not (folder / layout.folder / name).is_file()]
        if missing:
            raise ValueError(f"dataset {dataset}: {folder / layout.folder / missing[0]} is missing")
        return partial(_read_pickles, layout, folder / layout.folder)
    if not (folder / "train").is_dir() or not (folder / "test").is_dir():
        own = f"neither {layout.folder} nor " if layout else "no "
        download = "leave --data-dir out to download it, " if layout else ""
        raise ValueError(
            f"dataset {dataset}: {folder} holds {own}train/<class>/*.jpg and test/<class>/*.jpg; "
            f"with --data-dir name a folder that does, {download}or use --dataset digits, which needs no file"
        )
    classes = _classes(folder / "train")
    if classes != _classes(folder / "test"):
        raise ValueError(f"dataset {dataset}: {folder}/train and {folder}/test must have folders of the same names")
    if layout is not None and len(classes) != layout.classes:
        raise ValueError(
            f"dataset {dataset} has {layout.classes} classes, but {folder}/train has {len(classes)} folders; "
            "use --dataset folder for images of your own"
        )
    if len(classes) < 2:
        raise ValueError(f"dataset {dataset}: {folder}/train has {len(classes)} folders; expected one per class")
    return partial(_read_folders, dataset, layout, folder, classes)


# As torchvision unpacks it.


def _downloaded(layout: Layout) -> Path:
    """The folder into which torchvision has downloaded and checked the dataset; workers wait for the first."""
    from torchvision import datasets

    root = cache_directory() / "torchvision"
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{layout.folder}.lock"):
            getattr(datasets, layout.torchvision)(root, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{layout.title} is not there and cannot be downloaded ({reason}); give --data-dir DIR that holds "
            f"{layout.folder}, or train/<class>/*.jpg and test/<class>/*.jpg, or use --dataset digits, "
            "which needs no file"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)
    return root


def _read_pickles(layout: Layout, folder: Path) -> Images:
    from torchvision import datasets

    cls = getattr(datasets, layout.torchvision)
    sums = dict([*cls.train_list, *cls.test_list])
    train, test = (
        [_read_pickle(folder / name, layout, sums[name]) for name in names] for names in (layout.train, layout.test)
    )
    return Images(layout.title, str(folder), layout.classes, _joined(train), _joined(test))


def _joined(pieces: list[Rows]) -> Rows:
    return np.concatenate([images for images, _ in pieces]), np.concatenate([labels for _, labels in pieces])


def _read_pickle(path: Path, layout: Layout, md5: str) -> Rows:
    """
    Raises:
        ValueError: the file is not the one of this checksum, which is looked at first, since a pickle is a program.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    if (found := hashlib.md5(raw).hexdigest()) != md5:
        raise ValueError(
            f"{path} is not {layout.title}'s, or damaged: its md5 checksum is {found}, torchvision's {md5}"
        )
    try:
        content = pickle.loads(raw, encoding="latin1")
        images = np.asarray(content["data"], np.uint8).reshape(-1, 3, SIZE, SIZE)
        labels = np.asarray(content[layout.labels], np.int64)
    except Exception as error:  # damage shows as any of a dozen kinds
        raise ValueError(f"{path} cannot be read ({' '.join(str(error).split()) or type(error).__name__})") from None
    if len(images) != len(labels) or not ((labels >= 0) & (labels < layout.classes)).all():
        raise ValueError(f"{path}: expected a label of 0 to {layout.classes - 1} for each of its {len(images)} images")
    return images, labels


# As a folder per class.


def _classes(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _read_folders(dataset: str, layout: Layout | None, folder: Path, classes: list[str]) -> Images:
    splits = {split: _list_images(folder / split, classes) for split in ("train", "test")}
    listing = [(path, size, modified) for files in splits.values() for path, size, modified, _ in files]
    key = hashlib.sha256(repr([DECODED, dataset, str(folder.resolve()), listing]).encode()).hexdigest()[:16]

    def decode() -> Arrays:
        return {split: _decode([path for path, *_ in files], layout is None) for split, files in splits.items()}

    images = cached_arrays(f"images-{key}", decode)
    train, test = ((images[split], np.array([label for *_, label in splits[split]], np.int64)) for split in splits)
    title = layout.title if layout else f"images of {folder.name}"
    return Images(title, str(folder), len(classes), train, test)


def _list_images(folder: Path, classes: list[str]) -> list[tuple[str, int, int, int]]:
    """Path, size, time of change and label of each image, sorted by label and name."""
    files = []
    for label, name in enumerate(classes):
        with os.scandir(folder / name) as entries:
            images = sorted((e for e in entries if e.name.lower().endswith(SUFFIXES)), key=lambda e: e.name)
        if not images:
            raise ValueError(f"{folder / name} has no images ({', '.join(SUFFIXES)})")
        files += [(e.path, e.stat().st_size, e.stat().st_mtime_ns, label) for e in images]
    return files


def _decode(paths: list[str], resize: bool) -> np.ndarray:
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(partial(_decode_one, resize=resize), paths, chunksize=100)))


def _decode_one(path: str, resize: bool) -> np.ndarray:
    """One image, (3, 32, 32), uint8."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            opened.load()
            image = opened if opened.mode in WIDE else opened.convert("RGB")
    except Exception as error:  # damage shows as any of a dozen kinds
        raise ValueError(f"{path} cannot be read as an image ({' '.join(str(error).split())})") from None
    if image.mode in WIDE:
        image = Image.fromarray(_eight_bits(path, np.asarray(image))).convert("RGB")
    if resize:
        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    elif image.size != (SIZE, SIZE):
        width, height = image.size
        raise ValueError(f"{path} is {width}x{height}, expected {SIZE}x{SIZE}")
    return np.asarray(image).transpose(2, 0, 1)


def _eight_bits(path: str, pixels: np.ndarray) -> np.ndarray:
    """Grey pixels of 16 bits in 8; PIL would cut them off at 255, where nearly all are white.

    Raises:
        ValueError: they are of another kind.
    """
    if pixels.dtype.kind == "f":
        raise ValueError(f"{path} has pixels of floating point; expected 8 or 16 bits a channel")
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > WHITE_OF_16_BITS:
        raise ValueError(f"{path} has pixels from {low} to {high}; expected 0 to {WHITE_OF_16_BITS}, 16 bits a channel")
    return np.rint(pixels / (WHITE_OF_16_BITS / 255)).astype(np.uint8)


# Within scikit-learn.


def _digits() -> Images:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)  # (1797, 64), 0 to 16
    small = np.rint(pixels.reshape(-1, 1, 8, 8) * 255 / 16).astype(np.uint8)
    images = np.repeat(small.repeat(SIZE // 8, axis=2).repeat(SIZE // 8, axis=3), 3, axis=1)
    keep, out = hold_out(labels, DIGITS_TEST_SHARE)
    labels = labels.astype(np.int64)
    return Images("handwritten digits", "scikit-learn", 10, (images[keep], labels[keep]), (images[out], labels[out]))
