"""Links, commands, keys, files and columns in README, CHANGELOG and docs/ are there; columns are explained."""

from __future__ import annotations

import ast
import io
import json
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.made_runs import make_run
from tuner.__main__ import COMMANDS, overview
from tuner.comparison.results import Results, compare
from tuner.config.layers import resolve
from tuner.config.suites import read_suite, resolve_suite
from tuner.prepare import FLAG_KEYS
from tuner.reporting.as_json import document
from tuner.reporting.leaderboard import leaderboard
from tuner.store.run import Run

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SECTIONS = yaml.safe_load((ROOT / "configs/defaults.yaml").read_text(encoding="utf-8"))
FOREIGN = {"--exclusive", "--requeue"}  # SLURM's
SUFFIXES = "csv|json|parquet|db|yaml|yml|html|txt|md|py|sh|toml|ipynb|svg|png|npz|jsonl"
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and content of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text_of(page), re.M | re.S)


@cache
def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S)


@cache
def spans(page: Path) -> list[str]:
    """What stands between backticks in the text."""
    return re.findall(r"`([^`\n]+)`", prose(page))


@cache
def code_lines(page: Path) -> list[str]:
    """Lines of blocks without a language, continued ones joined, and code in the text."""
    shell = "".join(code for language, code in blocks(page) if not language)
    return [*shell.replace("\\\n", " ").splitlines(), *spans(page)]


# Links.


def slug(heading: str) -> str:
    """As GitHub makes anchors."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#{1,6} (.+)$", prose(page), re.M)}


def links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    found += re.findall(r'\b(?:href|src|srcset)="([^"]+)"', prose(page))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_relative_to(ROOT) and target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_index_has_every_page() -> None:
    named = {link for link in links(ROOT / "docs/index.md") if "/" not in link}
    assert named == {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}


# Commands.


@cache
def flags() -> set[str]:
    parsers = [overview(), *(import_module(f"tuner.{name}").make_parser() for name in COMMANDS)]
    return {flag for parser in parsers for action in parser._actions for flag in action.option_strings}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_calls_itself_by_its_name(name: str) -> None:
    assert import_module(f"tuner.{name}").make_parser().prog == f"python -m tuner.{name}"


def tuner_commands(page: Path) -> Iterator[list[str]]:
    """The words of each `python -m tuner.NAME ...` or `tuner NAME ...`, from NAME on, up to a pipe or a comment."""
    for line in code_lines(page):
        for match in re.finditer(rf"(?:python -m tuner\.|(?<![\w./-])tuner )({'|'.join(COMMANDS)}) ?([^|\"]*)", line):
            if "..." not in match[0]:
                yield [match[1], *shlex.split(match[2], comments=True)]


@each_page
def test_commands_are_understood(page: Path) -> None:
    for command in tuner_commands(page):
        if len(command) > 1:
            import_module(f"tuner.{command[0]}").make_parser().parse(command[1:])


@each_page
def test_flags_are_there(page: Path) -> None:
    """Those named in the text; lines of other programs are theirs."""
    for span in spans(page):
        if re.match(r"--\w|tuner[. ]|python -m tuner\.", span):
            assert set(re.findall(r"(?<!\S)--[a-z][\w-]*", span)) <= flags() | FOREIGN, span


def own_folder(folder: Path) -> Path:
    """The optimizers, tasks, suites and targets that pages write as examples, each a block of its page, in order."""
    for page in PAGES:
        names = re.findall(r"`mine/((?:optimizers|tasks|suites|targets)/[a-z_]+\.yaml)`", text_of(page))
        contents = [code for language, code in blocks(page) if language == "yaml"]
        for name, content in zip(dict.fromkeys(names), contents, strict=False):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8")
    return folder


def settings_of(span: str) -> list[str]:
    """KEY=VALUE of a --set in the text."""
    found = re.match(r"(?:--resume RUN )?--set ((?:[\w.]+=\S+ ?)+)$", span)
    return found[1].split() if found else []


@each_page
def test_searches_are_valid(page: Path, tmp_path: Path) -> None:
    own = own_folder(tmp_path)
    for command in tuner_commands(page):
        if command[0] != "search" or "--resume" in command or len(command) == 1:
            continue
        args = import_module("tuner.search").make_parser().parse(command[1:])
        flags = {key: getattr(args, flag) for flag, key in FLAG_KEYS.items() if flag != "seeds"}
        asked = {key: value for key, value in flags.items() if value is not None}
        configs = own if args.configs else None
        if args.suite is None:
            found = [resolve(asked, args.set, configs)]
        else:
            file = read_suite(args.suite, configs)
            assert set(args.only or ()) <= set(file.tasks)
            found = list(resolve_suite(file, asked, args.set, configs).values())
        for config in found:
            assert config.task.dataset.startswith("cond") or config.task.dataset in config.task.datasets


@each_page
def test_settings_are_valid(page: Path) -> None:
    for setting in (setting for span in spans(page) for setting in settings_of(span)):
        if "KEY" not in setting:
            key, value = setting.replace("optimizers.NAME.", "optimizers.adam.").split("=")
            named = re.match(r"optimizers\.(\w+)", key)
            names = {"search.optimizers": [named[1]]} if named else {}
            resolve({"task.name": "mnist1d"} | names, [f"{key}={value}"])


# Keys, modules, targets, files.


def is_key(dotted: str) -> bool:
    """Whether defaults.yaml, or a mapping in it that a task or a person fills, has the key."""
    node: Any = SECTIONS
    for part in dotted.split("."):
        if node in ({}, None) or (isinstance(node, dict) and dotted.startswith(("report.margin.", "task.args."))):
            return True
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


@each_page
def test_keys_are_there(page: Path) -> None:
    named = "|".join(key for key in SECTIONS if isinstance(SECTIONS[key], dict))
    own = {
        "task.metric",
        "task.mode",
        "task.class",
        "task.dataset",
        "task.datasets",
        "task.name",
    }  # of each task's file
    for span in spans(page):
        for key in re.findall(rf"(?<![\w./-])((?:{named})(?:\.[a-z_]+)+)\b(?!\()", span):
            if not re.search(rf"\.(?:{SUFFIXES})$", key) and "unknown key" not in span:
                assert key in own or is_key(key) or is_module(f"tuner.{key}"), key


@cache
def names_in(module: Path) -> set[str]:
    """What is defined or imported at a module's top, for a type checker alone too."""
    found = set()
    body = ast.parse(module.read_text(encoding="utf-8")).body
    conditional = [inner for node in body if isinstance(node, ast.If) for inner in node.body]
    for node in [*body, *conditional]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def is_module(dotted: str) -> bool:
    """Whether it is a module of ours, or what one defines."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:n])
        module = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
        if module.exists():
            return n == len(parts) or parts[n] in names_in(module)
    return ROOT.joinpath(*parts).is_dir()


@each_page
def test_modules_are_there(page: Path) -> None:
    for line in [*code_lines(page), *(code for language, code in blocks(page) if language == "python")]:
        for dotted in re.findall(r"(?<![\w./-])((?:tuner|tasks|benchmarks|optimizers)\.[A-Za-z_]\w*(?:\.\w+)?)", line):
            is_setting = re.match(r"tuner\.(?:NAME|optimizers|tasks)\b|optimizers\.(?:NAME\b|[a-z_]+(?:\.|$))", dotted)
            if not is_setting and dotted.rpartition(".")[2] not in SUFFIXES.split("|"):
                assert is_module(dotted), dotted


@each_page
def test_make_targets_are_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for line in code_lines(page):
        found = re.match(r"make ((?:[A-Z]+=\S+ )*)([a-z][\w-]*)", line)
        assert found is None or found[2] in targets, line


@cache
def written_by_the_program() -> str:
    """Source in which the names of a run's files stand."""
    sources = [*ROOT.glob("tuner/**/*.py"), *ROOT.glob("tasks/*.py"), *ROOT.glob("tests/**/*.py")]
    return "\n".join(path.read_text(encoding="utf-8") for path in sources if path != Path(__file__))


@each_page
def test_files_are_there(page: Path) -> None:
    """Those of the repository under the path that is named; those of a run by name; a page's own examples aside."""
    folders = "configs|docs|tests|tuner|tasks|optimizers|benchmarks|notebooks"
    ours = {path.name for folder in folders.split("|") for path in (ROOT / folder).rglob("*")}
    ours |= {path.name for path in ROOT.iterdir()}
    for span in spans(page):
        for name in re.findall(rf"(?<![\w./*<$-])([\w.-]+(?:/[\w.*-]+)*\.(?:{SUFFIXES}))\b(?![\w/(])", span):
            if re.match(rf"(?:{folders})/", name):
                assert list(ROOT.glob(name)), name
            elif not name.startswith(("mine/", "my_", "RUN", "runs/")):
                last = name.rpartition("/")[2]
                assert last in ours or last in written_by_the_program(), name


# Columns.


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("runs")
    two = make_run(folder / "two", "resnet18", {"adam": 0.0, "sgdm": 0.02}, seeds=4)
    return compare([make_run(folder / "one", seeds=4), two])


def columns_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").partition("\n")[0].split(",")


def part(heading: str) -> str:
    page = text_of(ROOT / "docs/report.md")
    [found] = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    return found


def explained(heading: str) -> list[str]:
    """The names in the first column of a part's table."""
    rows = re.findall(r"^\| ([^|]+) \|", part(heading), re.M)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def general(column: str) -> str:
    """With the place of a name in it."""
    if column.startswith("hp."):
        return "hp.NAME"
    return re.sub(r"^(?:train|val|test)_\w+?_(mean|sd|low|high|median)$", r"METRIC_\1", column)


@pytest.mark.parametrize("name", ["summary", "contrasts"])
def test_every_column_is_explained_and_nothing_else(found: Results, name: str, tmp_path: Path) -> None:
    found.write_tables(tmp_path)
    names = explained(f"{name}.csv")
    assert len(names) == len(set(names))
    assert set(names) == {general(column) for column in columns_of(tmp_path / f"{name}.csv")}


def test_the_columns_of_the_leaderboard_are_explained(found: Results) -> None:
    task = found.tasks[0]
    head, _ = leaderboard(task)
    named = [name for name in head[1:] if name not in task.comparison.metrics]
    rows = [row.strip() for row in re.findall(r"^\| ([^|]+) \|", part("The page"), re.M)]
    general = {name.replace(task.comparison.baseline, "the baseline").replace(" (shared)", "") for name in named}
    assert general <= set(rows)
    assert {"the deciding metric", "other metrics"} <= set(rows)


def test_the_keys_of_the_document_are_explained(found: Results) -> None:
    made = document(found)
    words = set(re.findall(r"`(\w+)`", part("--json"))) | set(explained("summary.csv") + explained("contrasts.csv"))
    task, across = made["tasks"][0], made["across_tasks"]
    keys = {*made, *task, *task["rules"], *across, *across["pairs"][0], *across["interquartile_means"][0]}
    keys |= {general(key) for key in (*task["optimizers"][0], *task["contrasts"][0])}
    assert keys <= words


# Examples.


def test_the_examples_of_the_report_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "runs/RUN", seeds=4)
    page = ROOT / "docs/report.md"
    [shell] = [code for language, code in blocks(page) if not language and "python -c" in code]
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(document(compare([run])))))
    [program] = re.findall(r'-c "\n(.*)"', shell, re.S)
    exec(program, {})
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["diag_hessian", "adam"]
    monkeypatch.chdir(tmp_path)
    [python] = [code for language, code in blocks(page) if language == "python"]
    space: dict[str, Any] = {}
    exec(python, space)
    assert list(space["result"].contrasts["optimizer"].unique()) == ["diag_hessian"]


def test_the_tutorials_optimizer_is_one(tmp_path: Path) -> None:
    page = ROOT / "docs/tutorial.md"
    [python] = [code for language, code in blocks(page) if language == "python"]
    classes = [node for node in ast.parse(python).body if isinstance(node, ast.ClassDef)]
    config = resolve({"task.name": "mnist1d", "search.optimizers": ["sign_momentum"]}, [], own_folder(tmp_path))
    spec = config.optimizers["sign_momentum"]
    [made] = [node for node in classes if spec.class_ == f"my_optimizers.{node.name}"]
    [init] = [node for node in made.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    assert set(spec.space) | set(spec.args) <= {argument.arg for argument in init.args.args}
    assert spec.enqueued() == spec.defaults


def test_what_a_run_leaves_behind_is_in_the_readme(tmp_path: Path) -> None:
    run = Run.open(make_run(tmp_path / "run", seeds=4).path)
    compare([run]).write_tables(run.path)
    rows = re.findall(r"^\| (`[^|]+) \|", text_of(ROOT / "README.md"), re.M)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert {name for name in run.files() if "." in name} <= named


def test_the_loops_of_ones_own_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after the other, as a reader would; the page says itself that a resumed run is the same."""
    torch = import_module("torch")
    monkeypatch.chdir(tmp_path)
    programs = [code for language, code in blocks(ROOT / "docs/use_in_your_loop.md") if language == "python"]
    assert len(programs[0].splitlines()) <= 20
    space: dict[str, Any] = {}
    seen = []
    for program in programs:
        exec(program, space)
        seen.append({"loss": float(space["loss"]), "lrs": [group["lr"] for group in space["optimizer"].param_groups]})
    out = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"^epoch \d+: loss (\S+)$", out, re.M)]
    assert len(losses) == 20 and losses[0] > 0.6 > 0.3 > losses[-1]
    assert out.endswith("8.7 forward and backward passes' worth in 8 steps\n")  # 8, and 2/3 for one refresh
    start, scheduled, clipped = (step["lrs"][0] for step in seen[1:4])
    assert start == 1e-4 and abs(scheduled) < 1e-12 and clipped == scheduled  # the end of a cosine
    assert [group["weight_decay"] for group in space["groups"]] == [0.1, 0.0]
    assert all(torch.isfinite(param).all() for param in space["model"].parameters())
    assert all(step["loss"] < 0.7 for step in seen)  # guessing costs 0.69
