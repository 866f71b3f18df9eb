"""The cache of generated arrays. Every test has a cache directory of its own."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tasks.cache import cache_directory, cached_arrays


class Maker:
    """Makes the same arrays each time and counts."""

    def __init__(self, seconds=0.0):
        self.calls = 0
        self.seconds = seconds

    def __call__(self):
        self.calls += 1
        time.sleep(self.seconds)
        return {"x": np.arange(200.0).reshape(2, 100), "y": np.array([3, 4])}


def assert_right(arrays):
    expected = Maker()()
    assert set(arrays) == set(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(arrays[key], array)
        assert arrays[key].dtype == array.dtype


def test_the_directory_is_below_XDG_CACHE_HOME_or_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "tuner"
    for unset in (lambda: monkeypatch.setenv("XDG_CACHE_HOME", ""), lambda: monkeypatch.delenv("XDG_CACHE_HOME")):
        unset()
        monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
        assert cache_directory() == tmp_path / "home" / ".cache" / "tuner"


def test_arrays_are_made_once_and_then_read(cache):
    make = Maker()
    for _ in range(3):
        assert_right(cached_arrays("some", make))
    assert make.calls == 1
    with np.load(cache / "some.npz") as stored:
        assert_right(dict(stored))


def test_each_name_has_its_own_arrays(cache):
    make = Maker()
    cached_arrays("some", make)
    assert list(cached_arrays("other", lambda: {"z": np.ones(1)})) == ["z"]
    assert_right(cached_arrays("some", make))
    assert make.calls == 1


def test_workers_that_start_together_wait_for_the_first(cache):
    make = Maker(seconds=0.05)
    with ThreadPoolExecutor(4) as pool:
        for arrays in pool.map(lambda _: cached_arrays("some", make), range(4)):
            assert_right(arrays)
    assert make.calls == 1


def test_no_partial_file_is_left(cache):
    cached_arrays("some", Maker())
    assert {p.name for p in cache.iterdir()} <= {"some.npz", "some.npz.lock"}


def npy_bytes(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def whole(cache):
    cached_arrays("some", Maker())
    return (cache / "some.npz").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: b"not an archive",
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:300] + b"\x00\xff\x00\xff" + raw[304:],
        lambda raw: raw[: (at := raw.index(b"PK\x01\x02") + 6)] + b"\xff" + raw[at + 1 :],
        lambda raw: npy_bytes(np.ones(3)),
    ],
    ids=["empty", "text", "cut short", "bytes changed", "version changed", "an .npy"],
)
def test_a_damaged_file_is_made_anew_and_kept(cache, damage):
    raw = whole(cache)
    damaged = damage(raw)
    assert damaged != raw
    (cache / "some.npz").write_bytes(damaged)
    make = Maker()
    for _ in range(2):
        assert_right(cached_arrays("some", make))
    assert make.calls == 1


def test_arrays_are_made_each_time_where_the_directory_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    make = Maker()
    for _ in range(2):
        assert_right(cached_arrays("some", make))
    assert make.calls == 2


def test_an_error_while_making_is_passed_on_and_nothing_is_kept(cache):
    def fail():
        raise RuntimeError("no data today")

    with pytest.raises(RuntimeError, match="no data today"):
        cached_arrays("some", fail)
    assert_right(cached_arrays("some", Maker()))


def test_arrays_that_cannot_be_written_are_not_made_twice(cache, monkeypatch):
    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    make = Maker()
    assert_right(cached_arrays("some", make))
    assert make.calls == 1
