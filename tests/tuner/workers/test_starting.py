"""A command's Ray is started once, beside the preflight, and does not outlive the command. Ray's session is made up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tuner import events
from tuner.config.layers import resolve
from tuner.config.schema import Config
from tuner.errors import UserError
from tuner.events import Event
from tuner.machine.resources import Machine
from tuner.workers import session, starting
from tuner.workers.right_of_way import VARIABLE
from tuner.workers.starting import CommandRay

PLACE = Path("scratch")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is done to Ray's session, of a machine of four processors; and whether a worker is to wait meanwhile."""
    done: list[Any] = []

    @contextmanager
    def cluster(address: str | None, machine: Machine, workers: int, say: Any, *, verbose: bool) -> Iterator[Any]:
        done.append((address, machine.cpus, workers, VARIABLE in os.environ))
        try:
            yield [machine], PLACE
        finally:
            done.append("ended")

    @contextmanager
    def watched(*_: Any) -> Iterator[None]:
        done.append("watched")
        yield
        done.append("not watched")

    monkeypatch.setattr(session, "cluster", cluster)
    monkeypatch.setattr(session, "watched", watched)
    monkeypatch.setattr(starting, "this_machine", lambda: Machine(4, 1))
    monkeypatch.delenv(VARIABLE, raising=False)
    return done


def config(concurrent: int = 4, cpus: float = 1.0, address: str | None = None) -> Config:
    flags = {"task.name": "mnist1d", "search.optimizers": ["adam"], "resources.gpus_per_trial": 0.0}
    resources = {
        "resources.max_concurrent": concurrent,
        "resources.cpus_per_trial": cpus,
        "resources.address": address,
    }
    return resolve(flags | resources)


def command(told: list[Event], inside: str | None = None) -> CommandRay:
    return CommandRay(told.append, inside)


def said(told: list[Event]) -> list[str]:
    return [event.text for event in told if isinstance(event, events.Remark)]


def test_ray_starts_beside_the_preflight_and_ends_with_the_work(log: list[Any]) -> None:
    told: list[Event] = []
    with command(told) as ray:
        for _ in range(2):  # tasks
            ray.start(config())
        assert log == [(None, 4, 4, True), "watched"]
        with ray.at_work(config()) as (nodes, scratch):
            assert (nodes, scratch) == ([Machine(4, 1)], PLACE)
            assert log[2:] == ["not watched"] and VARIABLE not in os.environ  # the work has a watch of its own
        assert log[3:] == ["ended"]
    assert log[4:] == [] and told == []  # what the preflight refuses is one line


def test_ray_that_was_not_started_before_is_when_work_begins(log: list[Any]) -> None:
    told: list[Event] = []
    with command(told) as ray, ray.at_work(config()):
        assert log == [(None, 4, 4, False)]
    assert log[1:] == ["ended"] and said(told) == ["starting Ray ..."]


def test_of_what_the_preflight_refuses_no_ray_remains(log: list[Any]) -> None:
    def refuse() -> None:
        with command([]) as ray:
            ray.start(config())
            raise UserError("bad data")

    with pytest.raises(UserError, match="bad data"):
        refuse()
    assert log == [(None, 4, 4, True), "watched", "not watched", "ended"] and VARIABLE not in os.environ


@pytest.mark.parametrize(("address", "inside"), [("head:6379", None), (None, "10.0.0.1:6379")])
def test_a_ray_that_is_there_is_joined_when_work_begins(
    log: list[Any], address: str | None, inside: str | None
) -> None:
    told: list[Event] = []
    with command(told, inside) as ray:
        ray.start(config(address=address))
        assert log == [] and told == []
        with ray.at_work(config(address=address)):
            assert log == [(address or inside, 4, 4, False)]
    assert said(told) == ["joining Ray ..."]


@pytest.mark.parametrize(
    ("concurrent", "cpus", "declared", "waits"),
    [(4, 1.0, 4, True), (1, 1.0, 1, False), (2, 2.0, 4, True), (8, 0.5, 4, True), (3, 0.5, 2, False)],
)
def test_ray_gets_the_processors_that_trials_use_and_a_worker_waits_where_these_are_all(
    log: list[Any], concurrent: int, cpus: float, declared: int, waits: bool
) -> None:
    with command([]) as ray:
        ray.start(config(concurrent, cpus))
    assert log[0] == (None, declared, concurrent, waits)
