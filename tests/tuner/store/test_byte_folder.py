"""A folder of bytes by name: what is written comes back, and what is dropped is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.store.byte_folder import ByteFolder


@pytest.fixture
def files(tmp_path: Path) -> ByteFolder:
    return ByteFolder(tmp_path / "files", ".x")


def test_files_come_back_by_their_names_also_those_with_dots(files: ByteFolder) -> None:
    assert files.names() == [] and files.read(["a"]) == {}
    for name, content in (("b.c-1", b"1"), ("a", b"2"), ("b.c-1", b"\0")):
        files.write(name, content)
    assert files.names() == ["a", "b.c-1"] == [path.name[:-2] for path in sorted(files.path.iterdir())]
    assert files.read(["b.c-1", "b.c", "a"]) == {"b.c-1": b"\0", "a": b"2"}


def test_the_folder_goes_with_its_last_file(files: ByteFolder) -> None:
    files.drop(["a"])
    for name in "abc":
        files.write(name, b"x")
    files.drop(["a", "c", "d"])
    assert files.names() == ["b"]
    files.drop(["b"])
    assert not files.path.exists()


def test_cleared_it_holds_nothing_half_written_either(files: ByteFolder) -> None:
    files.clear()
    files.write("a", b"x")
    files.file("a").with_name("a.x.partial").write_bytes(b"")
    assert files.names() == ["a"]
    files.clear()
    assert not files.path.exists()
