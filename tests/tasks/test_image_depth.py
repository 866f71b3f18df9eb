"""Images of 16 bits a channel are what they show, or refused by name; those that show nothing are warned of."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tasks.image_data import read_images
from tests.support.images import TEN, refusal, write_folders

pytestmark = pytest.mark.usefixtures("cache")

GREY = np.arange(0, 2**16, 64, dtype=np.uint16).reshape(32, 32)
GREY[-1, -1] = 65535
EXPECTED = np.array([[round(int(value) / 257) for value in row] for row in GREY], np.uint8)


def colour_png(pixels):
    """A PNG of 16 bits a channel, (height, width, 3), which PIL cannot write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def put(folder, image, name="one.png"):
    path = folder / "train/class_3" / name
    image.save(path)
    return path


def read_one(folder, dataset="cifar10"):
    """The image that ``put`` has put, after the two of its class that were there."""
    images, labels = read_images(dataset, folder).train
    (place,) = np.flatnonzero(labels == TEN.index("class_3"))[-1:]
    return images[place]


@pytest.mark.parametrize(
    ("name", "mode", "dtype"),
    [("one.png", "I;16", "<u2"), ("one.tif", "I;16", "<u2"), ("one.tif", "I;16B", ">u2"), ("one.tif", "I", "<i4")],
)
def test_grey_of_16_bits_is_scaled_to_8(tmp_path, name, mode, dtype):
    path = put(write_folders(tmp_path), Image.fromarray(GREY.astype(dtype)), name)
    with Image.open(path) as opened:
        assert opened.mode == mode
    np.testing.assert_array_equal(read_one(tmp_path), np.stack([EXPECTED] * 3))
    assert (EXPECTED == 255).sum() == 2  # of 1,024


def test_grey_of_16_bits_is_scaled_before_it_is_resized(tmp_path):
    write_folders(tmp_path)
    put(tmp_path, Image.fromarray(GREY.repeat(2, 0).repeat(2, 1)))
    expected = Image.fromarray(EXPECTED.repeat(2, 0).repeat(2, 1)).resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(read_one(tmp_path, "folder"), np.stack([np.asarray(expected)] * 3))


def test_colours_of_16_bits_are_those_of_8_to_one_step(tmp_path):
    pixels = np.stack([GREY, GREY.T, GREY[::-1]], axis=2)
    (write_folders(tmp_path) / "train/class_3/one.png").write_bytes(colour_png(pixels))
    read = read_one(tmp_path).transpose(1, 2, 0).astype(int)
    np.testing.assert_array_equal(read, pixels // 256)
    assert np.abs(read - pixels / 257).max() <= 1


@pytest.mark.parametrize(
    ("pixels", "why"),
    [
        (GREY.astype(np.float32), "has pixels of floating point; expected 8 or 16 bits a channel"),
        (GREY.astype(np.int32) + 1, "has pixels from 1 to 65536; expected 0 to 65535, 16 bits a channel"),
        (GREY.astype(np.int32) - 5, "has pixels from -5 to 65530; expected 0 to 65535, 16 bits a channel"),
    ],
)
def test_what_is_not_of_16_bits_is_refused_by_name(tmp_path, cache, pixels, why):
    path = put(write_folders(tmp_path), Image.fromarray(pixels), "one.tif")
    assert refusal("cifar10", tmp_path) == f"{path} {why}"
    assert not list(cache.glob("*.npz"))


def test_what_was_kept_before_16_bits_were_scaled_is_not_used(tmp_path, cache, monkeypatch):
    write_folders(tmp_path)
    for version in (1, 2):
        monkeypatch.setattr("tasks.image_data.DECODED", version)
        read_images("cifar10", tmp_path)
        assert len(list(cache.glob("*.npz"))) == version


@pytest.mark.parametrize(
    ("bright", "said"),
    [
        (lambda i: 255, "images of data: all 20 training images are the same"),
        (lambda i: 7 * i, "images of data: each training image is of one brightness"),
    ],
)
def test_images_on_which_nothing_can_be_seen_are_warned_of(tmp_path, bright, said):
    write_folders(tmp_path / "data")
    for i, path in enumerate(sorted((tmp_path / "data/train").glob("*/*"))):
        Image.new("L", (32, 32), bright(i)).save(path)
    for _ in range(2):  # decoded, then from the cache
        with pytest.warns(UserWarning, match=said):
            read_images("folder", tmp_path / "data")
