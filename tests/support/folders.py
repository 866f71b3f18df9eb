"""What is in a folder."""

from __future__ import annotations

from pathlib import Path


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
