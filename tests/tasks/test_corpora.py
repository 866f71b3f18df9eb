"""Streams of token numbers against plain Python on small texts, and every refusal."""

import sys
import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.corpora import check_dataset, read_corpus
from tests.support.commands import python
from tests.support.examples import examples

TRAIN = "the cat sat\n\non the mat\nthe <unk> cat\tran\r\n"
VALID = "a cat sat\n"
TEST = "<unk> the\ndog"  # no newline at its end
SPLITS = ("train", "val", "test")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "small"
    made.mkdir()
    for name, text in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        (made / f"{name}.txt").write_bytes(text.encode())
    return made


def spelled(corpus, split):
    return [corpus.symbols[number] for number in corpus.streams[split]]


def ranked(tokens):
    """Kinds, most frequent first, then by first appearance."""
    counts = Counter(tokens)
    return sorted((t for t in counts if t != "<unk>"), key=lambda t: (-counts[t], tokens.index(t)))


def test_words_end_each_line_with_eos_and_unknown_ones_are_unk(folder):
    corpus = read_corpus("words", folder)
    train = ["the", "cat", "sat", "<eos>", "<eos>", "on", "the", "mat", "<eos>", "the", "<unk>", "cat", "ran", "<eos>"]
    assert spelled(corpus, "train") == train
    assert spelled(corpus, "val") == ["<unk>", "cat", "sat", "<eos>"]
    assert spelled(corpus, "test") == ["<unk>", "the", "<eos>", "<unk>", "<eos>"]
    assert corpus.symbols == ["<unk>", *ranked(train)] == ["<unk>", "<eos>", "the", "cat", "sat", "on", "mat", "ran"]
    assert corpus.name == "words of small, 8 kinds" and corpus.source == str(folder)


@pytest.mark.parametrize("dataset", ["words", "chars"])
@pytest.mark.parametrize("vocabulary", [1, 3, 1000])
def test_the_vocabulary_is_the_most_frequent_of_train_and_unk(folder, dataset, vocabulary):
    corpus = read_corpus(dataset, folder, vocabulary=vocabulary)
    tokens = list(TRAIN) if dataset == "chars" else spelled(read_corpus(dataset, folder), "train")
    kept = ranked(tokens)[:vocabulary]
    assert list(corpus.symbols) == ["<unk>", *kept]
    assert spelled(corpus, "train") == [t if t in kept else "<unk>" for t in tokens]


def test_chars_are_unicode_characters(tmp_path):
    text = "é∑\n" * 3 + "𝔸é\n" + "x" * 8  # 20 characters: 18, 1 and 1
    path = tmp_path / "greek.txt"
    path.write_bytes(text.encode())
    corpus = read_corpus("chars", path)
    assert spelled(corpus, "train") == list(text[:18]) and spelled(corpus, "val") == ["x"] == spelled(corpus, "test")
    assert list(corpus.symbols) == ["<unk>", *ranked(list(text[:18]))]
    assert corpus.name == "chars of greek, 6 kinds"


def test_bytes_are_their_own_numbers(folder):
    corpus = read_corpus("bytes", folder)
    for split, text in zip(SPLITS, (TRAIN, VALID, TEST), strict=True):
        assert bytes(corpus.streams[split].tolist()) == text.encode()
    assert list(corpus.symbols) == list(range(256))
    assert corpus.name == "bytes of small, 256 kinds"


def test_bytes_need_not_be_text(tmp_path):
    raw = bytes(range(256)) * 4
    (tmp_path / "noise.txt").write_bytes(raw)
    streams = read_corpus("bytes", tmp_path).streams
    assert bytes(np.concatenate([streams[s] for s in SPLITS]).tolist()) == raw


@examples(50)
@example("a" * 39 + "\té")
@given(st.text(st.sampled_from("ab \n\té"), min_size=40, max_size=200))
def test_one_file_is_split_by_position(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("one") / "text.txt"
    path.write_bytes(text.encode())
    lines = text.split("\n")[: -1 if text.endswith("\n") else None]
    whole = {
        "words": [word for line in lines for word in [*line.split(), "<eos>"]],
        "chars": list(text),
        "bytes": list(text.encode()),
    }
    for dataset, tokens in whole.items():
        for given_as in (path, path.parent):
            streams = read_corpus(dataset, given_as).streams
            sizes = [len(streams[split]) for split in SPLITS]
            assert sum(sizes) == len(tokens)
            assert sizes[0] == pytest.approx(0.9 * len(tokens), abs=0.51)
            assert sizes[0] + sizes[1] == pytest.approx(0.95 * len(tokens), abs=0.51)
        corpus = read_corpus(dataset, path)
        known = set(tokens if dataset == "bytes" else tokens[: sizes[0]])
        expected = [token if token in known else "<unk>" for token in tokens]
        assert [token for split in SPLITS for token in spelled(corpus, split)] == expected


@pytest.mark.parametrize("dataset", ["words", "chars", "bytes"])
def test_streams_are_numbers_that_torch_takes_without_a_copy(folder, dataset):
    for stream in read_corpus(dataset, folder).streams.values():
        assert stream.dtype == np.int64 and stream.ndim == 1 and stream.flags.writeable


def test_limits_take_the_beginnings_and_the_vocabulary_of_what_is_trained_on(folder):
    whole, part = read_corpus("words", folder), read_corpus("words", folder, tokens=5, held_out_tokens=2)
    assert spelled(part, "train") == spelled(whole, "train")[:5]
    assert list(part.symbols) == ["<unk>", "<eos>", "the", "cat", "sat"]
    assert spelled(part, "val") == ["<unk>", "cat"] and spelled(part, "test") == ["<unk>", "the"]
    assert part.name == "words of small, 5 kinds, the first 5 of train, the first 2 of val and of test"


def test_the_folder_is_read_by_split_whatever_else_is_in_it(folder):
    (folder / "README.txt").write_text("not data")
    assert spelled(read_corpus("words", folder), "val") == ["<unk>", "cat", "sat", "<eos>"]


def test_stdlib_is_every_top_level_module_once():
    corpus = read_corpus("stdlib", None)
    parts = [bytes(corpus.streams[split].astype(np.uint8).tolist()) for split in SPLITS]
    folder = Path(sysconfig.get_paths()["stdlib"])
    modules = [path.read_bytes() for path in folder.glob("*.py") if path.stem in sys.stdlib_module_names]
    assert sum(map(len, parts)) == sum(map(len, modules)) > 2e6
    for module in sorted(modules, key=len)[-30:]:
        assert sum(module in part for part in parts) == 1  # whole, in one split
    train, val, test = map(len, parts)
    assert train > 10 * val > 0 and train > 10 * test > 0
    assert corpus.symbols == range(256)
    assert corpus.name == "bytes of the Python standard library, 256 kinds" and corpus.source.startswith("Python 3.")


def test_stdlib_is_the_same_every_time():
    first, second = read_corpus("stdlib", None, tokens=100_000), read_corpus("stdlib", None, tokens=100_000)
    assert all(np.array_equal(first.streams[split], second.streams[split]) for split in SPLITS)
    assert len(first.streams["train"]) == 100_000


@pytest.mark.parametrize("dataset", ["words", "chars", "bytes"])
def test_check_accepts_a_folder_and_a_file(folder, dataset):
    check_dataset(dataset, str(folder))
    check_dataset(dataset, str(folder / "train.txt"))


def refusal(dataset, data_dir):
    """What both the check and the reader say."""
    with pytest.raises(ValueError, match=r"\S") as checked:
        check_dataset(dataset, None if data_dir is None else str(data_dir))
    with pytest.raises(ValueError, match=r"\S") as read:
        read_corpus(dataset, data_dir)
    assert str(checked.value) == str(read.value) and "\n" not in str(read.value)
    return str(read.value)


def test_an_unknown_dataset_is_refused_with_those_there_are(folder):
    assert refusal("word", folder) == ("unknown dataset 'word'; expected one of words, chars, bytes, stdlib")
    assert (
        refusal("wikitext103", folder) == "unknown dataset 'wikitext103'; expected one of words, chars, bytes, stdlib"
    )


@pytest.mark.parametrize("dataset", ["words", "chars", "bytes"])
def test_without_a_folder_all_three_ways_are_named(dataset):
    said = refusal(dataset, None)
    assert f"dataset {dataset} needs --data-dir" in said
    for way in ("a folder with train.txt, valid.txt and test.txt", "a single text file", "--dataset stdlib needs none"):
        assert way in said


def test_a_folder_beside_stdlib_is_not_read(folder):
    corpus = read_corpus("stdlib", folder, tokens=1000)
    assert corpus.name.startswith("bytes of the Python standard library") and str(folder) not in corpus.source


def test_what_does_not_exist_is_named(tmp_path):
    assert refusal("words", tmp_path / "nowhere") == f"{tmp_path / 'nowhere'}: no such file or folder"


@pytest.mark.parametrize("missing", ["train.txt", "valid.txt", "test.txt"])
def test_a_folder_that_lacks_one_file_names_it(folder, missing):
    (folder / missing).unlink()
    said = refusal("words", folder)
    assert said.startswith(f"{folder} has no {missing}; expected train.txt, valid.txt and test.txt, or a single .txt")
    assert said.count(missing) == 2 and said.endswith(".txt)")  # not among those it has


def test_a_lone_train_file_is_not_taken_for_the_whole(folder):
    (folder / "valid.txt").unlink()
    (folder / "test.txt").unlink()
    assert "has no valid.txt" in refusal("words", folder)


def test_a_folder_without_texts_or_with_several_says_what_it_has(tmp_path):
    assert refusal("words", tmp_path).endswith("(it has no .txt file)")
    for i in range(7):
        (tmp_path / f"{i}.txt").write_text("a")
    assert refusal("words", tmp_path).endswith("(it has 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, ...)")


@pytest.mark.parametrize("name", ["train.txt", "valid.txt", "test.txt"])
def test_an_empty_file_is_named(folder, name):
    (folder / name).write_text("")
    assert refusal("chars", folder) == f"{folder / name} is empty"


@pytest.mark.parametrize("dataset", ["words", "chars"])
def test_a_file_that_is_not_utf8_is_named_with_the_place(folder, dataset):
    (folder / "valid.txt").write_bytes("é = ".encode() + b"\xff rest")
    with pytest.raises(ValueError, match=r"valid\.txt is not UTF-8 at byte 5; --dataset bytes takes any file"):
        read_corpus(dataset, folder)
    assert len(read_corpus("bytes", folder).streams["val"]) == 11


def test_a_vocabulary_too_small_for_bytes_is_refused(folder):
    with pytest.raises(ValueError, match="vocabulary must be at least 256 for bytes, or null, got 255"):
        read_corpus("bytes", folder, vocabulary=255)
    assert len(read_corpus("bytes", folder, vocabulary=256).symbols) == 256


def test_the_check_imports_no_torch():
    code = (
        "import sys; from tasks.corpora import check_dataset; check_dataset('stdlib', None); "
        "sys.exit('torch' in sys.modules)"
    )
    assert python(code).code == 0
