"""Odd files, at random: folders of --configs, and run directories, that were typed, torn or tampered with."""

from __future__ import annotations

import copy
import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from hypothesis import event, given
from hypothesis import strategies as st

from tests.tuner.console.test_fuzz import (
    FEW,
    MANY,
    NUMBERS,
    PATHS,
    SCALARS,
    TEXT,
    USED,
    WORDS,
    assert_one_line,
    assert_refused_or_valid,
    leaves,
    mutated,
    workplace,  # noqa: F401  (a fixture)
)  # fmt: skip
from tuner import report, retrain, status
from tuner.config.layers import resolve
from tuner.config.registry import SHIPPED
from tuner.errors import UserError

# Trees with one or more small errors.

NESTED = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.sampled_from(NUMBERS[:-4] + WORDS + PATHS),
        st.binary(max_size=4), st.dates(), st.datetimes(), st.sampled_from([10**400, 1e308, 5e-324]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.integers(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
PIECES = [
    b"\xff", b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b"\t", b"\r", b"\n", b"\n\t- ", b"\xc2\x85",
    b"\x1b[2J", b"\xed\xa0\x80", b": ", b"- ", b"#", b"&a ", b"*a", b"<<: ", b"---\n", b"...\n", b"%YAML 9.9\n---\n",
    b"!!", b"{", b"]",
]  # fmt: skip
BYTES = st.one_of(st.sampled_from(PIECES), st.binary(max_size=6), st.sampled_from(SCALARS).map(str.encode))


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a tree."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def spoilt(draw: st.DrawFn, tree: Any) -> Any:
    """The tree with a value gone, replaced, moved or wrapped, or with a key of another name or kind."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 2))):
        known = list(places(tree))
        if not known:
            return draw(NESTED)
        *path, last = draw(st.sampled_from(known))
        parent = tree
        for key in path:
            parent = parent[key]
        change = draw(st.sampled_from(["delete", "replace", "replace", "rename", "wrap", "move"]))
        value = copy.deepcopy(parent[last])
        if change in ("delete", "rename"):
            del parent[last]
        if change == "rename" and isinstance(parent, dict):
            parent[draw(mutated(str(last)) | st.sampled_from([1, 1.5, True, None]))] = value
        elif change == "replace":
            parent[last] = draw(NESTED)
        elif change == "wrap":
            parent[last] = draw(st.sampled_from([[value], {"a": value}, str(value), [value, value]]))
        elif change == "move" and isinstance(tree, dict):
            tree[draw(st.sampled_from([key[-1] for key in known]))] = value
    return tree


@st.composite
def torn(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes with a piece gone, doubled or replaced."""
    begin, end = sorted([draw(st.integers(0, len(content))), draw(st.integers(0, len(content)))])
    end = draw(st.sampled_from([begin, begin + 1, begin + 3, end]))
    return content[:begin] + draw(BYTES | st.just(content[begin:end] * 2)) + content[end:]


def as_yaml(tree: Any) -> bytes:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")


# A folder of --configs.

TREES = {
    kind: {path.stem: yaml.safe_load(path.read_text()) for path in sorted((SHIPPED / kind).glob("*.yaml"))}
    for kind in ("optimizers", "tasks")
}
DEFAULTS = yaml.safe_load((SHIPPED / "defaults.yaml").read_text())
STEMS = [
    "mine", "adam", "mnist1d", "my own", "a.b", ".hidden", "-n", "--help", "a\nb", "é", "😀", "1", "null", "a" * 240,
    "a\udcff", "*", "a,b", "a=b", "${a}", "???", "True", "../optimizers/adam", "[a]", "a\\b", "~",
]  # fmt: skip
NAMES = st.sampled_from(STEMS) | TEXT


def content_of(tree: Any) -> st.SearchStrategy[bytes]:
    return st.one_of(spoilt(tree).map(as_yaml), spoilt(tree).map(as_yaml), torn(as_yaml(tree)), BYTES)


def place(path: Path, content: bytes | None) -> None:
    """Write the file; ``None``: a link to nowhere. A name that no file can have is left out."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.symlink_to("nowhere")
        elif content == b"folder":
            path.mkdir()
        else:
            path.write_bytes(content)
    except (OSError, ValueError):
        return


@FEW
@given(st.data())
def test_odd_folders_of_configs(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    odd_folder_of_configs(tmp_path_factory, data)


@pytest.mark.slow
@MANY
@given(st.data())
def test_many_odd_folders_of_configs(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    odd_folder_of_configs(tmp_path_factory, data)


def odd_folder_of_configs(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "configs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    task, optimizer = "mnist1d", "adam"
    if data.draw(st.booleans()):
        tree = data.draw(st.sampled_from([*TREES["tasks"].values()]))
        task = data.draw(NAMES)
        place(folder / f"tasks/{task}.yaml", data.draw(st.sampled_from([None, b"folder"]) | content_of(tree)))
    if data.draw(st.booleans()):
        tree = data.draw(st.sampled_from([*TREES["optimizers"].values()]))
        optimizer = data.draw(NAMES)
        place(folder / f"optimizers/{optimizer}.yaml", data.draw(content_of(tree)))
    if data.draw(st.booleans()):
        place(folder / "defaults.yaml", data.draw(content_of(DEFAULTS)))
    if data.draw(st.integers(0, 9)) == 0:
        place(folder / data.draw(st.sampled_from(["tasks", "optimizers", "defaults.yaml"])), b"")
    output = data.draw(st.sampled_from([[], ["--json"]]))
    argv = ["--task", task, "--optimizers", optimizer, "--configs", str(folder), "--dry-run", *output]
    event(f"exit code {assert_refused_or_valid(argv)}")


@pytest.mark.parametrize(
    ("name", "content"), [("tasks/mnist1d", b"!!str 1"), ("optimizers/a\udcff", as_yaml(TREES["optimizers"]["adam"]))]
)
def test_what_was_found_in_folders_of_configs(tmp_path: Path, name: str, content: bytes) -> None:
    place(tmp_path / f"{name}.yaml", content)
    optimizer = "adam" if name.startswith("tasks") else name.rpartition("/")[2]
    argv = ["--task", "mnist1d", "--optimizers", optimizer, "--configs", str(tmp_path), "--dry-run"]
    assert_refused_or_valid(argv)


# A run directory.

OPTIMIZERS = ("adam", "diag_hessian")
FOUND = {
    "hp": {"lr": 0.001},
    "value": 0.5,
    "trial": 0,
    "n_trials": 2,
    "n_diverged": 0,
    "n_failed": 0,
    "at_boundary": [],
}
BEST = {
    "schema_version": 1,
    "task": "rahimi_recht",
    "metric": "train_loss",
    "optimizers": dict.fromkeys(OPTIMIZERS, FOUND),
}
STATUS = {
    "schema_version": 1, "state": "running", "updated": "2026-01-01T00:00:00+00:00", "host": "node", "pid": 7,
    "progress": [{"phase": "search", "optimizer": "adam", "running": 2, "left_s": 1.5, "done": 0, "total": 2}],
}  # fmt: skip
WHICH = {"task": "rahimi_recht", "optimizer": "adam", "study": "0", "seed": "0"}
CLOCKS = {"steps": "1", "seconds": "1.0", "cohort": "1", "hp.lr": "0.001"}
TRIAL = {**WHICH, "trial": "0", "state": "complete", "value": "0.5", **CLOCKS}
LOSSES = {"train_loss": "0.5", "val_loss": "0.5", "test_loss": "0.5"}
SEED = {
    **WHICH,
    "status": "complete",
    **LOSSES,
    "grad_equivalents": "1.0",
    "nominal_grad_equivalents": "1.0",
    "step_ms": "1.0",
    "peak_mem_mb": "1.0",
    **CLOCKS,
}


def as_csv(rows: list[Any]) -> bytes:
    """The rows, which may be anything, as CSV."""
    text = io.StringIO()
    lines = [
        [*row] if i < 0 else [*row.values()] for i, row in enumerate([rows[0], *rows], -1) if isinstance(row, dict)
    ]
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode("utf-8", "surrogatepass")


def as_json(tree: Any) -> bytes:
    return json.dumps(tree, default=str).encode()


def rows_of(row: dict[str, str]) -> list[dict[str, str]]:
    return [{**row, "optimizer": name, "seed": seed} for name in OPTIMIZERS for seed in ("0", "1")]


def run_files() -> dict[str, tuple[Any, Any]]:
    """A finished run: name -> content and what writes it."""
    config = resolve(USED | {"retrain.seeds": 2, "search.trials": 2}).model_dump(by_alias=True)
    return {
        "config.yaml": (config, as_yaml), "best.json": (BEST, as_json), "env.json": ({"schema_version": 1}, as_json),
        "seeds.csv": (rows_of(SEED), as_csv), "trials.csv": (rows_of(TRIAL), as_csv), "status.json": (STATUS, as_json),
    }  # fmt: skip


FILES = run_files()
WRITTEN = ("config.yaml", "summary.csv", "contrasts.csv")


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would come after the run has been read is refused."""

    def stop(*args: Any) -> NoReturn:
        raise UserError("now it would start")

    for name in ("preflight", "run_plans"):
        monkeypatch.setattr(f"tuner.execute.{name}", stop)


def assert_run_is_refused_or_shown(run: Path, argv: list[str]) -> int:
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    code, out, err = leaves(retrain.main, [str(run), "--no-report", *argv])
    err = "".join(line for line in err.splitlines(keepends=True) if "by which code it was made" not in line)
    assert code in (0, 2, 3) or (code == 1 and out), err
    if code == 2:
        assert_one_line(argv, out, err)
    else:
        assert err == ""
        assert not {"--json"} & set(argv) or json.loads(out)["run"] == str(run)
    after = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    if code != 2:  # a run that goes on writes its configuration anew, and what it comes to
        before |= {run / name: after[run / name] for name in WRITTEN if run / name in after}
    assert after == before
    assert_report_is_refused_or_shown(run)
    assert_status_is_refused_or_shown(run)
    return code


def assert_report_is_refused_or_shown(run: Path) -> None:
    code, out, err = leaves(report.main, [str(run), "--json"])
    if code == 2:
        assert_one_line([str(run), "--json"], out, err)
    else:
        assert code in (0, 1), err
        assert err == ""
        assert json.loads(out, parse_constant=pytest.fail)["runs"] == [str(run)]


def assert_status_is_refused_or_shown(run: Path) -> None:
    code, out, err = leaves(status.main, [str(run)])
    if code == 2:
        assert_one_line([str(run)], out, err)
    else:
        assert (code, err) == (0, "") and "\x1b" not in out


@FEW
@given(st.data())
@pytest.mark.usefixtures("no_training")
def test_odd_run_directories(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    odd_run_directory(tmp_path_factory, data)


@pytest.mark.slow
@MANY
@given(st.data())
@pytest.mark.usefixtures("no_training")
def test_many_odd_run_directories(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    odd_run_directory(tmp_path_factory, data)


def odd_run_directory(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    run = tmp_path_factory.getbasetemp() / "odd run"
    shutil.rmtree(run, ignore_errors=True)
    (run / "logs").mkdir(parents=True)
    odd = data.draw(st.sampled_from([*FILES]))
    for name, (tree, write) in FILES.items():
        content = st.just(write(tree))
        if name == odd:
            content = st.one_of(spoilt(tree).map(write), spoilt(tree).map(write), torn(write(tree)), BYTES)
        (run / name).write_bytes(data.draw(content))
    argv = data.draw(st.sampled_from([[], ["--seeds", "3"], ["--seeds", "0,5"], ["--json"]]))
    event(f"{odd}: exit code {assert_run_is_refused_or_shown(run, argv)}")


HEADER = as_csv(rows_of(SEED)[:1]).partition(b"\n")[0] + b"\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("seeds.csv", b"\xff\n"),
        ("seeds.csv", b"\n"),
        ("seeds.csv", b"...\n"),
        ("seeds.csv", HEADER + b"t,adam,0.5,complete\n"),
        ("seeds.csv", HEADER + b"t,adam,0,complete,x,x,x\n"),
        ("trials.csv", b"\xff\n"),
        ("trials.csv", b"a,b\n1,2\n1,2,3\n"),
        ("trials.csv", b"task,optimizer\nt,o,1\n"),
        ("trials.csv", b"task,optimizer\n"),
        ("best.json", as_json({"schema_version": 1})),
        ("best.json", as_json(BEST | {"optimizers": []})),
        ("best.json", as_json(BEST | {"optimizers": {"adam": {}}})),
        ("best.json", as_json(BEST | {"optimizers": {"adam": [1], "diag_hessian": [1]}})),
        ("best.json", as_json(BEST | {"optimizers": {"adam": {"hp": {"lr": 1.0}}}})),
    ],
)
@pytest.mark.usefixtures("no_training")
def test_what_was_found_in_run_directories(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "logs").mkdir()
    for other, (tree, writer) in FILES.items():
        (tmp_path / other).write_bytes(writer(tree))
    (tmp_path / name).write_bytes(content)
    assert_run_is_refused_or_shown(tmp_path, [])
