"""Text as streams of token numbers: words, characters or bytes of files; without torch, so that it checks fast."""

from __future__ import annotations

import platform
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

DATASETS = ("words", "chars", "bytes", "stdlib")
FILES = {"train": "train.txt", "val": "valid.txt", "test": "test.txt"}
SHARES = {"train": 0.9, "val": 0.95, "test": 1.0}
"""Where each split of a single file ends, as a share of its tokens."""

UNKNOWN, END_OF_LINE = "<unk>", "<eos>"
HELD_OUT_MODULES = {6: "val", 16: "test"}
"""By position in the sorted list modulo 20 the modules of the standard library that do not train."""


@dataclass(frozen=True)
class Corpus:
    """A text as numbers.

    Attributes:
        name: what it is, as a person would call it.
        source: the file or folder it was read from.
        streams: "train", "val" and "test", the numbers of their tokens in order, (tokens,) int64.
        symbols: what the numbers stand for: words or characters, number 0 being ``<unk>``; for bytes 0 to 255.
    """

    name: str
    source: str
    streams: Mapping[str, np.ndarray]
    symbols: Sequence[str] | Sequence[int]


def check_dataset(dataset: str, data_dir: str | None) -> None:
    """Refuse what ``read_corpus`` could not read, as far as names and sizes of files tell.

    Raises:
        ValueError: as ``locate``.
    """
    locate(dataset, None if data_dir is None else Path(data_dir))


def read_corpus(
    dataset: str,
    data_dir: Path | None,
    vocabulary: int | None = None,
    tokens: int | None = None,
    held_out_tokens: int | None = None,
) -> Corpus:
    """Read a text and number its tokens.

    Words are what white space separates, with ``<eos>`` at the end of each line; chars are Unicode characters. Both
    are numbered from 1, those most frequent in the training split first, and of equally frequent ones the first to
    appear. 0 is ``<unk>``, which stands for all others and, among words, for a ``<unk>`` in the text; it is there
    whether or not the text needs it, so that held-out text has no say. Bytes are their own numbers, always 256 kinds.

    Args:
        dataset: words, chars, bytes, or stdlib: the bytes of the top-level modules of Python's standard library.
        data_dir: a folder with train.txt, valid.txt and test.txt; or a single file, or a folder with a single .txt:
            the first 90 % of its tokens train, the next 5 % validate, the last 5 % test. stdlib reads neither.
        vocabulary: the most kinds of tokens beside ``<unk>``; None: all of the training split.
        tokens: the most tokens to train on, from the beginning; None: all.
        held_out_tokens: likewise of each of val and test.

    Raises:
        ValueError: as ``locate``; a file cannot be read or is not UTF-8, or the vocabulary is too small for bytes.
    """
    files = locate(dataset, data_dir)
    limits = {"train": tokens, "val": held_out_tokens, "test": held_out_tokens}
    parts = {split: [_tokens(dataset, path) for path in paths] for split, paths in files.items()}
    whole = {split: _joined(part) for split, part in parts.items()}
    splits = _split(whole["all"]) if "all" in whole else whole
    text = {split: splits[split][: limits[split]] for split in FILES}
    symbols: Sequence[str] | Sequence[int]
    if dataset in ("words", "chars"):
        symbols, streams = _numbered(text, vocabulary)
    elif vocabulary is not None and vocabulary < 256:
        raise ValueError(f"vocabulary must be at least 256 for bytes, or null, got {vocabulary}")
    else:
        symbols, streams = range(256), {split: np.array(part, np.int64) for split, part in text.items()}
    own = None if dataset == "stdlib" else data_dir
    return Corpus(_name(dataset, own, limits, len(symbols)), _source(own), streams, symbols)


def locate(dataset: str, data_dir: Path | None) -> dict[str, list[Path]]:
    """The files of each split, or of "all" where a single file is to be split by position.

    Raises:
        ValueError: the dataset is unknown; there is no such file or folder, or not what is needed in it; a file is
            empty; neither folder nor file is given for another dataset than stdlib, which reads none.
    """
    if dataset not in DATASETS:
        raise ValueError(f"unknown dataset {dataset!r}; expected one of {', '.join(DATASETS)}")
    if dataset == "stdlib":
        return _standard_library()
    if data_dir is None:
        raise ValueError(
            f"dataset {dataset} needs --data-dir: a folder with train.txt, valid.txt and test.txt, or a single text "
            "file (--dataset stdlib needs none: it is Python's own source)"
        )
    files = _files(data_dir)
    for path in (path for paths in files.values() for path in paths):
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty")
    return files


def _files(data_dir: Path) -> dict[str, list[Path]]:
    if data_dir.is_file():
        return {"all": [data_dir]}
    if not data_dir.is_dir():
        raise ValueError(f"{data_dir}: no such file or folder")
    texts = sorted(path for path in data_dir.glob("*.txt") if path.is_file())
    missing = [name for name in FILES.values() if data_dir / name not in texts]
    if not missing:
        return {split: [data_dir / name] for split, name in FILES.items()}
    if len(texts) == 1 and len(missing) == len(FILES):
        return {"all": texts}
    raise ValueError(
        f"{data_dir} has no {missing[0]}; expected train.txt, valid.txt and test.txt, or a single .txt file "
        f"(it has {', '.join(path.name for path in texts[:5]) or 'no .txt file'}{', ...' if len(texts) > 5 else ''})"
    )


def _standard_library() -> dict[str, list[Path]]:
    """The top-level modules, in the order of their names; of every 20 one validates and one tests, whole files."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    modules = sorted(path for path in folder.glob("*.py") if path.stem in sys.stdlib_module_names)
    files: dict[str, list[Path]] = {split: [] for split in FILES}
    for position, path in enumerate(modules):
        files[HELD_OUT_MODULES.get(position % 20, "train")].append(path)
    if not all(files.values()):
        raise ValueError(f"dataset stdlib: {folder} has too few modules as source; expected Python's standard library")
    return files


def _tokens(dataset: str, path: Path) -> Sequence[str] | np.ndarray:
    """A file's words, characters or bytes."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if dataset in ("bytes", "stdlib"):
        return np.frombuffer(raw, np.uint8)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}; --dataset bytes takes any file") from None
    return text if dataset == "chars" else list(_words(text))


def _words(text: str) -> Iterable[str]:
    for line in text.removesuffix("\n").split("\n"):
        yield from line.split()
        yield END_OF_LINE


def _joined(parts: Sequence[Sequence[str] | np.ndarray]) -> Sequence[str] | np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _split(tokens: Sequence[str] | np.ndarray) -> dict[str, Sequence[str] | np.ndarray]:
    ends = [0, *(round(share * len(tokens)) for share in SHARES.values())]
    return {split: tokens[start:end] for split, start, end in zip(SHARES, ends, ends[1:], strict=False)}


def _numbered(
    text: Mapping[str, Sequence[str] | np.ndarray], vocabulary: int | None
) -> tuple[list[str], dict[str, np.ndarray]]:
    counts = Counter(text["train"])
    counts.pop(UNKNOWN, None)
    symbols = [UNKNOWN, *(symbol for symbol, _ in counts.most_common(vocabulary))]
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    streams = {
        split: np.fromiter(map(numbers.get, part, repeat(0)), np.int64, len(part)) for split, part in text.items()
    }
    return symbols, streams


def _name(dataset: str, data_dir: Path | None, limits: Mapping[str, int | None], kinds: int) -> str:
    what = "bytes" if dataset == "stdlib" else dataset
    owner = "the Python standard library"
    if data_dir is not None:
        owner = data_dir.stem if data_dir.is_file() else data_dir.resolve().name
    first = [f"the first {limits['train']:,} of train"] if limits["train"] else []
    first += [f"the first {limits['val']:,} of val and of test"] if limits["val"] else []
    return ", ".join([f"{what} of {owner}", f"{kinds:,} kinds", *first])


def _source(data_dir: Path | None) -> str:
    return f"Python {platform.python_version()}" if data_dir is None else str(data_dir)
