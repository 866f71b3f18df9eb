"""Text from outside: whatever a job says, its record is written, read back, and shown on one line."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.run_configs import run_config
from tuner import status, text
from tuner.console import status_view
from tuner.errors import UserError
from tuner.jobs import EvaluationRecord, Job, Outcome
from tuner.planning.cohorts import CohortSizes
from tuner.planning.plan import Plan, search_plan
from tuner.store.run import Run

BIDI = "\u202emoc.live\u202c"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("as it is: ü, 日本, 😀", "as it is: ü, 日本, 😀"),
        ("two\nlines\r\n\tand\u2028more", "two lines and more"),
        ("half \ud800 of one", "half \\ud800 of one"),
        ("\x1b[31mred\x1b[0m, \x1b]0;title\x07gone, \x1bcleared", "red, gone, leared"),
        ("bell \x07, delete \x7f, C1 \x9b31m", "bell \\x07, delete \\x7f, C1 \\x9b31m"),
        (f"turned {BIDI}", "turned \\u202emoc.live\\u202c"),
        ("\x1b", "\\x1b"),
        ("", ""),
        (b"bytes", "b'bytes'"),
        (None, "None"),
        ([10**5000], "(without a text: ValueError)"),
    ],
)
def test_a_line_is_printable(said: object, expected: str) -> None:
    assert text.line(said) == expected


def test_what_is_long_loses_its_middle() -> None:
    said = text.line("begin " + "x" * 140_000 + " end")
    assert len(said) <= text.LONGEST_LINE
    assert said.startswith("begin x") and said.endswith("x end") and "(140,010 characters)" in said
    assert text.line("x" * text.LONGEST_LINE) == "x" * text.LONGEST_LINE


@examples(300)
@given(st.text(st.characters(exclude_categories=()), max_size=60), st.integers(0, 3000))
def test_any_text_becomes_one_that_every_file_and_terminal_can_hold(said: str, times: int) -> None:
    for made in (text.line(said * times), *text.log(said * times).split("\n")):
        assert made.isprintable() and made.encode().decode() == made
    assert len(text.line(said * times)) <= text.LONGEST_LINE
    assert text.line(text.line(said)) == text.line(said)


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class LeavingError(Exception):
    def __str__(self) -> str:
        sys.exit(3)


class NumberedError(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_an_error_is_its_type_and_its_text() -> None:
    assert text.fault(raised(ValueError("lr:\n too large"))) == "ValueError: lr: too large"
    assert text.fault(raised(AssertionError())) == "AssertionError"
    assert text.fault(raised(UnprintableError())) == "UnprintableError: (without a text: RuntimeError)"
    assert text.fault(raised(LeavingError())) == "LeavingError: (without a text: SystemExit)"
    assert text.fault(raised(NumberedError())) == "NumberedError: (without a text: TypeError)"


@pytest.mark.parametrize("error", [ValueError("a\x1b[2J\ud800"), UnprintableError(), LeavingError(), NumberedError()])
def test_a_traceback_says_where_and_nothing_that_cannot_be_written(error: Exception) -> None:
    said = text.tracebacks(raised(error))
    assert said.startswith("Traceback (most recent call last):\n") and "test_text.py" in said
    assert type(error).__name__ in said.splitlines()[-1] and said.encode() and "\x1b" not in said


class Text:
    def __str__(self) -> str:
        return "mine\n"


def test_a_document_of_anybodys_making_is_one_that_json_holds() -> None:
    made = text.plain({
        "name": "a\ud800\x1b[0m", 3: np.int64(4), "f": np.float32(0.5), "nan": math.nan, "inf": -math.inf, "big": 2**70,
        "list": (1, True, None, [Text()]), "in": {"rows": {"train": np.array(7)}},
    })  # fmt: skip
    assert made == {
        "name": "a\\ud800", "3": 4, "f": 0.5, "nan": "nan", "inf": "-inf", "big": str(2**70),
        "list": [1, True, None, ["mine"]], "in": {"rows": {"train": "7"}},
    }  # fmt: skip
    assert json.loads(json.dumps(made, allow_nan=False)) == made and type(made["3"]) is int


def test_an_error_of_one_line_is_printable() -> None:
    assert str(UserError("a\x1b[31m\nb\ud800")) == "a b\\ud800"


# What a job says, in the run's files.


LONG = "x" * 140_000
ERRORS: list[Exception] = [
    ValueError("half \ud800"),
    ValueError(LONG),
    ValueError("\x1b[31m" + BIDI),
    UnprintableError(),
]


def failed(error: Exception) -> Outcome:
    from tuner.workers.workbench import failure

    return failure(raised(error), [])


def planned(folder: Path) -> Plan:
    space = {"class": "pkg.Opt", "space": {"lr": {"low": 0.0, "high": 1.0}}}
    config = run_config({"one": space}, trials=len(ERRORS) + 1, seeds=1)
    path = folder / "run"
    run = Run.open(path) if path.exists() else Run.create(path, config)
    return search_plan(config, run, CohortSizes(config, {}, 1))


def record(plan: Plan, becomes: Callable[[Job], Outcome], count: int) -> None:
    for _ in range(count):
        (job,) = plan.next_jobs()
        plan.record([(job, becomes(job))])


def test_nothing_that_a_job_says_fails_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(tmp_path)
    record(plan, lambda job: failed(ERRORS[job.trial]), len(ERRORS))
    assert plan.close() == []
    rows = plan.run.trial_rows()
    assert [row["error"][:18] for row in rows] == [
        "ValueError: half \\", "ValueError: xxxxxx", "ValueError: \\u202e", "UnprintableError: ",
    ]  # fmt: skip
    assert len(plan.run.trials()) == len(ERRORS) and max(len(row["error"]) for row in rows) <= text.LONGEST_LINE
    for job in range(len(ERRORS)):
        assert (plan.run.logs / f"one-trial-{job}.log").read_text(encoding="utf-8").startswith("Traceback")
    plan = planned(tmp_path)  # as a resume does
    record(plan, lambda job: Outcome("complete", {"val_loss": 0.5}, {"steps": 1}), 1)
    assert plan.close() == [] and len(plan.run.trial_rows()) == len(ERRORS) + 1
    assert status.main([str(plan.run.path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\u202e" not in out and out.count("failed: ") == status_view.FAILURES


def test_names_that_a_job_makes_up_are_clean_in_its_outcome() -> None:
    names = {"val_lo\nss": 1.0, "val_\ud800": 2.0, "x" * 500: 3.0}
    odd: Any = {5: 1.0}
    made = Outcome("complete", names, evaluations=[EvaluationRecord(0, 0.0, 0.0, 0.0, names, odd)])
    assert list(made.metrics)[:2] == ["val_lo ss", "val_\\ud800"] and list(map(len, made.metrics))[2] <= 200
    assert made.evaluations == [EvaluationRecord(0, 0.0, 0.0, 0.0, made.metrics, {"5": 1.0})]


@pytest.mark.parametrize("error", [LONG, "\x1b[2J" + BIDI])
def test_a_run_of_before_errors_were_cleaned_still_opens(tmp_path: Path, error: str) -> None:
    plan = planned(tmp_path)
    record(plan, lambda job: Outcome("failed", error="placeholder"), 1)
    assert plan.close() == []
    path = plan.run.path / "trials.csv"
    path.write_text(path.read_text().replace("placeholder", error), encoding="utf-8")
    for said in (plan.run.trial_rows()[0]["error"], plan.run.trials()["error"][0]):
        assert said == text.line(error)
    again: Any = planned(tmp_path)
    assert len(again.next_jobs()) == 1 and again.close() == []


def test_what_looks_like_markup_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tuner.console.end_of_run import present
    from tuner.execute import Executed

    config = run_config({"one": {"class": "pkg.Opt", "space": {"kind": {"choices": ["[red]", ":smile:"]}}}})
    run = Run.create(tmp_path / "run", config)
    run.write_env({})
    entry = {"hp": {"kind": "[red]"}, "value": 0.5, "trial": 0, "n_trials": 1, "n_diverged": 0, "at_boundary": []}
    for kind, shown in (("[red]", "kind=[red]"), (":smile:", "kind=:smile:"), ("\x1b[2J", "kind=")):
        run.write_best({"optimizers": {"one": entry | {"hp": {"kind": kind}}}})
        present(Executed(run, config, None), as_json=False)
        out = capsys.readouterr().out
        assert shown in out and "\x1b" not in out
