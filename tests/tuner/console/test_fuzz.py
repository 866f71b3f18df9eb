"""Odd command lines, at random: each is refused in one line, or is a valid dry run."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from hypothesis import event, given
from hypothesis import strategies as st

from tests.support.commands import python
from tests.support.examples import examples
from tuner import search
from tuner.config.layers import from_yaml, resolve
from tuner.console.parsing import run_command
from tuner.machine.resources import Machine

FEW, MANY = examples(40), examples(500)  # in `make test`; in `make test-slow`

# What is typed.

NUMBERS = [
    "0", "1", "2", "-1", "+1", "-0", "01", "1_000", "0x10", "1.5", "1e3", "1e400", "-1e400", "1e-400", "nan", "inf",
    "-inf", "1e18", "9223372036854775808", "9" * 30, "9" * 5000, "٣", "１２", "²", "½", " 7 ", "1,", ",", "1,,2", "1,1",
    "0,1000", "10001", "1:30", "0.1",
]  # fmt: skip
WORDS = [
    "", " ", "\t", "\n", "a\nb", "\r", "\0", "a\0b", "\x1b[2J", "\x85", "\u2028", "\udcff", "a\ud800", "\ufeff", "é",
    "ß", "😀", "a" * 300, "a/" * 2500, "-", "--", "-h", "-q", "-v", "-1x", "=", "a=b", "@file", "%s", "%(prog)s", "{0}",
    "$(touch x)", "`touch x`", "; touch x", "| cat > x", "&& touch x", "*", "?", "'", '"', "\\", "null", "None",
    "true", "auto", "???", "${HOME}", "${oc.env:HOME}", "${train.epochs}", "${", "adam", "adam,sgd", "mnist1d",
    "cond1e3", "x.npz", "a\0.npz",
]  # fmt: skip
PATHS = [
    ".", "..", "../../x", "/", "//", "/etc/passwd", "/etc/passwd/x", "/dev/null", "~", "~root/x", "file", "file/x",
    "./file", "folder", "folder/", "folder/../file", "broken", "loop", "run", "torn", "own.npz", "loop.npz",
    "a/../../x",
]  # fmt: skip
SCALARS = [
    "&a 1", "*a", "&a [*a]", "[&a [1, 1], *a, *a]", "<<: {a: 1}", "{<<: {epochs: 1}}", "{<<: 1}", "{a: 1, a: 2}", "{a",
    "[1", "{}", "[]", "[[]]", "{a: b}", "{1: 2}", "{null: 1}", "{true: 1}", "{[a]: 1}", "{? {a: 1} : 2}", "? a", "- a",
    "!!python/object/apply:os.system [touch x]", "!!python/name:os.system", "!!python/tuple [1]", "!!binary aGk=",
    "!!binary é", "!!set {a}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!timestamp 2020-01-01", "!!str 1", "!!int a",
    "!!int 3", "!!float x", "!!bool x", "!!null x", "!x y", "! y", "!<tag:x> y", "2020-01-01", "2020-13-45",
    "2001-12-14t21:59:43.10-05:00", "1:30:45", "190:20:30.15", "0o17", "0b1", "0x_", ".inf", "-.inf", ".nan", "~",
    "yes", "off", "y", "|", "> a", "|\n a\n b", "'a", '"\\0"', '"\\ud800"', '"\\x85"', '"\\q"', "a: b", "a #b", "#",
    "%YAML 1.1", "--- 1", "...", "a\n---\nb", "@a", "`a`", "[" * 60, "[" * 60 + "]" * 60, "{a: " * 60 + "1" + "}" * 60,
    "[" * 3000, "[" * 3000 + "]" * 3000, "- " * 2000, "a,b", "1,2", "[1, 2]", "[1, 1]", "[adam]", "[adam, adam]",
    "[adam, [sgd]]", "{low: 1, high: 2}", "{choices: []}", "{choices: [1, 1.0, true]}", "{low: .inf, high: 2}",
    "{low: 1, high: 1e400}", "math.pi", "os.getcwd", "builtins.open", "builtins.int", "0x" + "f" * 5000, "{x: .nan}",
    "[{lr: .nan}]", "tasks.nothing.check", "tasks.corpora.check_dataset", "torch", ".a", "a..b", "a.b.c",
]  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=()), max_size=8)  # surrogates and control characters too
ODD = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(WORDS), st.sampled_from(PATHS), TEXT)

PLAUSIBLE = {
    "task": ["mnist1d", "rahimi_recht", "tabular_mlp", "resnet18", "transformer"],
    "optimizers": ["adam", "sgd", "diag_hessian"],
    "preset": ["smoke", "default", "paper"],
    "sampler": ["tpe", "gp", "random", "qmc"],
    "scheduler": ["fifo", "asha"],
    "dataset": ["mnist1d", "cond29", "cond1e3", "iris", "digits", "stdlib", "own.npz"],
    "resume": ["run"],
    "tracker": ["tensorboard", "mlflow", "wandb"],
    "cohort": ["auto", "1", "8"],
    "address": ["auto", "127.0.0.1:6379"],
    "set": ["train.epochs=3", "search.seed=7"],
}
NUMERIC = ["1", "2", "4", "0.5"]
ACTIONS = [a for a in search.make_parser()._actions if a.dest not in ("help", "task")]
FLAGS = [flag for action in ACTIONS for flag in action.option_strings]


def mutated(text: str) -> st.SearchStrategy[str]:
    """The text with one small error of typing."""
    places = st.integers(0, len(text))
    return st.one_of(
        places.map(lambda i: text[:i] + text[i + 1 :]),
        places.map(lambda i: text[:i]),
        places.map(lambda i: text[:i] + text[i : i + 1].swapcase() + text[i + 1 :]),
        st.tuples(places, TEXT).map(lambda it: text[: it[0]] + it[1] + text[it[0] :]),
        st.sampled_from([text[1:], text * 2, f".{text}", f"{text}.", f"{text}.x", text.replace("_", "-")]),
        st.sampled_from(
            [f"{text}[0]", text.replace(".", "["), text.replace(".", ".."), f"[{text}]", f"{text}=", f"-{text}"]
        ),
    )


@st.composite
def given_flag(draw: st.DrawFn, action: argparse.Action, odd: bool) -> list[str]:
    """A flag with a value as it should be, or an odd one, in one of the two ways of writing it."""
    flag = draw(st.sampled_from(action.option_strings))
    if action.nargs == 0:
        return [flag]
    plausible = st.sampled_from(PLAUSIBLE.get(action.dest, NUMERIC))
    value = st.one_of(plausible.flatmap(mutated), ODD, ODD) if odd else plausible
    if draw(st.booleans()):
        return [f"{flag}={draw(value)}"]
    return [flag, *draw(st.lists(value, min_size=1, max_size=3 if action.nargs == "+" else 1))]


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A good command with one or two odd flags, and now and then a word where none belongs or nothing as it should."""
    flags = st.sampled_from(ACTIONS)
    parts = draw(st.lists(flags.flatmap(lambda a: given_flag(a, True)), min_size=1, max_size=2))
    if draw(st.booleans()):
        parts += draw(st.lists(flags.flatmap(lambda a: given_flag(a, False)), max_size=2))
    word = st.one_of(st.sampled_from(FLAGS).flatmap(mutated), st.sampled_from(FLAGS), ODD)
    if draw(st.integers(0, 7)) == 0:
        parts += [[draw(word)]]
    task = st.sampled_from(PLAUSIBLE["task"])
    resumed = any(word.startswith("--resume") for part in parts for word in part)
    parts += [["--task", draw(st.one_of(task, task, task, ODD))]] if draw(st.integers(0, 15)) > 10 * resumed else []
    return [word for part in draw(st.permutations([*parts, ["--dry-run"]])) for word in part]


def keys(content: Any, prefix: str = "") -> Iterator[str]:
    for key, value in content.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")


USED = {"task.name": "rahimi_recht", "search.optimizers": ["adam", "diag_hessian"]}
KEYS = sorted({*keys(resolve(USED).model_dump(by_alias=True)), *keys(resolve({"task.name": "resnet18"}).model_dump())})
NESTED = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.binary(max_size=4), st.dates()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.integers(), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
INLINE = NESTED.map(lambda value: yaml.dump(value, default_flow_style=True).strip())
VALUES = st.one_of(st.sampled_from(SCALARS), st.sampled_from(SCALARS), ODD, INLINE)


@st.composite
def set_settings(draw: st.DrawFn) -> list[str]:
    real, free = st.sampled_from(KEYS), st.sampled_from([key for key in KEYS if ".args" in key or key == "out"])
    pair = st.tuples(st.one_of(real, real, free, real.flatmap(mutated)), VALUES).map("=".join)
    pairs = draw(st.lists(pair, min_size=1, max_size=2))
    output = draw(st.sampled_from([[], ["--json"]]))
    task = draw(st.sampled_from(["mnist1d", "rahimi_recht", "resnet18"]))
    return ["--task", task, "--optimizers", "adam", "--dry-run", *output, "--set", *pairs]


# What must come of it.


def leaves(command: Callable[[list[str]], int], argv: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, which encode as those of a process do."""
    out, err = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", errors, newline="") for errors in ("strict", "backslashreplace")
    )
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as leave:
        run_command(command, argv)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    assert isinstance(leave.value.code, int)
    return leave.value.code, texts[0], texts[1]


def assert_one_line(argv: list[str], out: str, err: str) -> None:
    *before, last = err.splitlines()
    assert out == "" and err.endswith("\n")
    assert last.startswith("error: ") and len(last) > len("error: ")
    assert not before or {"-v", "--verbose"} & set(argv), err


def no_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


def assert_valid_dry_run(argv: list[str], out: str, err: str) -> None:
    """The configuration resolves again to itself, the counts are right and the directory could be made."""
    resumed = any(word.startswith("--resume") for word in argv)
    assert err == "" or (
        resumed and re.fullmatch(r"--dry-run runs no code .*: \S+ was not asked about the data\n", err)
    )
    if "--json" in argv:
        plan = json.loads(out, parse_constant=no_constant)
        text, path = yaml.safe_dump(plan["config"], sort_keys=False), plan["run"]
        total = plan["runs"]["total"]
    else:
        text = out.removeprefix("# resolved configuration (config.yaml)\n").partition("\n# search space\n")[0]
        path = out.rpartition("the run directory would be ")[2].removesuffix("\n")
        (number,) = re.findall(r"^(\d+) training runs in all$", out, re.MULTILINE)
        total = int(number)
    config = from_yaml(text)
    assert from_yaml(config.to_yaml()).to_yaml() == config.to_yaml()
    assert yaml.safe_load(config.to_yaml()).keys() == yaml.safe_load(text).keys()
    search = config.search
    assert total == len(search.optimizers) * search.studies * (search.trials + len(config.retrain.seeds))
    assert list(config.optimizers) == config.search.optimizers
    if resumed:
        assert (Path(path) / "config.yaml").is_file()
        return
    made = [part for part in (Path(path), *Path(path).absolute().parents) if not os.path.lexists(part)]
    assert made, "exists already"
    assert all(len(os.fsencode(part.name)) <= 255 and "\0" not in part.name for part in made)


def assert_refused_or_valid(argv: list[str]) -> int:
    before = sorted(Path.cwd().rglob("*"))
    code, out, err = leaves(search.main, argv)
    assert code in (0, 2), err
    if code == 2:
        assert_one_line(argv, out, err)
    elif not out.startswith("usage: "):
        assert_valid_dry_run(argv, out, err)
    assert sorted(Path.cwd().rglob("*")) == before
    return code


@pytest.fixture(autouse=True, scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A working directory with a few things to trip over, on a machine of 4 CPUs, where nothing can be started."""
    work = tmp_path_factory.mktemp("work")
    (work / "file").write_text("text\n")
    (work / "folder").mkdir()
    (work / "broken").symlink_to("nowhere")
    for loop in ("loop", "loop.npz"):
        (work / loop).symlink_to(loop)
    (work / "own.npz").write_bytes(b"PK\x03\x04 broken")
    for name, content in {"run": resolve(USED).to_yaml(), "torn": "task: {name"}.items():
        (work / name / "logs").mkdir(parents=True)
        (work / name / "config.yaml").write_text(content)

    def start(*args: Any) -> NoReturn:
        raise AssertionError("this was to be a dry run")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setattr("tuner.machine.resources.this_machine", lambda: Machine(4, 0))
        for name in ("preflight", "run_plans"):
            patch.setattr(f"tuner.execute.{name}", start)
        yield


@examples(90)
@given(command_lines())
def test_odd_command_lines(argv: list[str]) -> None:
    event(f"exit code {assert_refused_or_valid(argv)}")


@pytest.mark.slow
@MANY
@given(command_lines())
def test_many_odd_command_lines(argv: list[str]) -> None:
    event(f"exit code {assert_refused_or_valid(argv)}")


@pytest.mark.parametrize(
    "argv",
    [
        ["--data-dir", "a" * 300],
        ["--data-dir=--"],
        ["--set", "configs=a\ud800"],
        ["--configs", "a" * 300],
        ["--resume", "a" * 300],
        ["--out", "a" * 300],
        ["--out", "a/" * 2500],
        ["--out", "\udcff"],
        ["--address", "\udcff"],
        ["--dataset", "loop.npz"],
        ["--dataset", "a\0.npz"],
        ["--set", 'out="a\\0b"'],
        ["--set", "search.trials=0x" + "f" * 5000],
        ["--set", "resources.cohort=0x" + "f" * 5000],
        ["--set", "optimizers.adam.args.eps=0x" + "f" * 5000],
        ["--json", "--set", "optimizers.adam.args.eps=.nan"],
        ["--json", "--set", "optimizers.adam.args.eps=[-.inf]"],
        ["--json", "--set", "optimizers.adam.defaults=[{lr: .nan}]"],
        ["--json", "--set", "optimizers.adam.args.eps=!!binary aGk="],
        ["--set", "task.check=os.getcwd"],
        ["--set", "task.check=builtins.open"],
    ],
    ids=lambda argv: " ".join(argv)[:40].encode("ascii", "backslashreplace").decode(),
)
def test_what_was_found(argv: list[str]) -> None:
    assert_refused_or_valid(["--task", "mnist1d", "--optimizers", "adam", "--dry-run", *argv])


@examples(70)
@given(set_settings())
def test_odd_settings(argv: list[str]) -> None:
    event(f"exit code {assert_refused_or_valid(argv)}")


@pytest.mark.slow
@MANY
@given(set_settings())
def test_many_odd_settings(argv: list[str]) -> None:
    event(f"exit code {assert_refused_or_valid(argv)}")


def test_what_is_odd_does_not_load_torch_either() -> None:
    lines = [
        ["--task", "mnist1d", "--set", "train.epochs=!!python/name:torch.nn", "--dry-run"],
        ["--task", "mnist1d", "--optimizers", "torch.optim.Adam", "--dry-run"],
        ["--task", "rahimi_recht", "--dataset", "x.npz", "--dry-run"],
    ]
    program = f"""
import sys
from tuner import search
from tuner.errors import UserError
for argv in {lines!r}:
    try:
        search.main(argv)
    except UserError:
        print("refused")
print(sorted({{"torch", "ray", "optuna", "pandas"}} & set(sys.modules)))
"""
    assert python(program).out.splitlines() == ["refused"] * 3 + ["[]"]
