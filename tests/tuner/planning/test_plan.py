"""Which jobs a plan hands out, and what it writes of their outcomes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import Phase, given
from hypothesis import strategies as st
from optuna.trial import TrialState

from tests.support.examples import examples
from tests.support.plans import OPTIMIZERS, config, ended, finish, loss, new_search, next_job
from tests.support.run_configs import SEED, stored
from tuner.jobs import Job, Outcome
from tuner.planning.cohorts import CohortSizes
from tuner.planning.plan import Plan, search_plan
from tuner.planning.progress import Progress
from tuner.store.run import Run


def optuna_states(run: Run, optimizer: str) -> list[TrialState]:
    return [trial.state for trial in stored(run.study_url, optimizer)]


# Whatever the order in which runs end.


@examples(8, phases=[Phase.generate])  # to shrink takes minutes
@given(
    data=st.data(),
    concurrent=st.integers(1, 8),
    mode=st.sampled_from(["min", "max"]),
    cohort=st.sampled_from([1, 2, 4]),
)
def test_everything_is_done_once_whatever_ends_first(
    new_run: Callable[[], Run], data: st.DataObject, concurrent: int, mode: str, cohort: int
) -> None:
    run, asked = new_run(), config(trials=3, mode=mode, concurrent=concurrent, cohort=cohort)
    plan = new_search(asked, run)
    states = st.sampled_from(["complete", "complete", "complete", "diverged", "failed", "stopped"])
    running: list[list[Job]] = []
    ended_jobs: list[tuple[Job, str]] = []

    def searched(name: str) -> list[tuple[Job, str]]:
        return [(job, state) for job, state in ended_jobs if job.phase == "search" and job.optimizer == name]

    while True:
        while len(running) < concurrent and (jobs := plan.next_jobs()):
            assert len(jobs) <= cohort and len({(job.phase, job.optimizer) for job in jobs}) == 1
            if jobs[0].phase == "retrain":
                assert len(searched(jobs[0].optimizer)) == asked.search.trials
            running.append(jobs)
        if not running:
            break
        worker = data.draw(st.integers(0, len(running) - 1))
        together = data.draw(st.integers(1, len(running[worker])))  # a worker may report job after job
        now = [(job, data.draw(states)) for job in running[worker][:together]]
        running[worker] = running[worker][together:]
        running = [jobs for jobs in running if jobs]
        plan.record([(job, ended(job, state, together)) for job, state in now])
        ended_jobs += now
    assert plan.next_jobs() == []
    plan.close()

    best = {}
    for name in OPTIMIZERS:
        assert sorted(job.trial for job, _ in searched(name)) == list(range(asked.search.trials))
        assert not {TrialState.RUNNING, TrialState.WAITING} & set(optuna_states(run, name))
        valid = [job for job, state in searched(name) if state == "complete"]
        best[name] = min(valid, key=lambda job: loss(job) if mode == "min" else -loss(job), default=None)
        entry = run.best()["optimizers"][name]
        counts = Counter(state for _, state in searched(name))
        assert (entry["n_trials"], entry["n_diverged"], entry["n_failed"]) == (
            asked.search.trials, counts["diverged"], counts["failed"],
        )  # fmt: skip
        found = best[name]
        assert (entry["hp"], entry["trial"]) == ((found.hp, found.trial) if found else (None, None))

    retrained = [(job, state) for job, state in ended_jobs if job.phase == "retrain"]
    cells = sorted((job.optimizer, job.seed) for job, _ in retrained)
    assert cells == [(name, seed) for name in OPTIMIZERS if best[name] for seed in asked.retrain.seeds]
    assert all(job.hp == best[job.optimizer].hp and job.trial == best[job.optimizer].trial for job, _ in retrained)

    table = run.trials()
    assert list(zip(table["optimizer"], table["trial"], table["state"], strict=True)) == [
        (job.optimizer, job.trial, state) for job, state in ended_jobs if job.phase == "search"
    ]
    rows = run.seeds()
    assert sorted(zip(rows["optimizer"], rows["seed"], rows["status"], strict=True)) == sorted(
        (job.optimizer, job.seed, state) for job, state in retrained
    )
    finished = [job for job, state in ended_jobs if state != "failed"]
    curves = run.curves()
    assert len(curves) == sum(4 if job.phase == "retrain" else 3 for job in finished)
    assert len(plan.failures) == sum(state == "failed" for _, state in ended_jobs)


# Which job comes next.


def test_the_next_trial_is_of_the_study_with_the_fewest_running(run: Run) -> None:
    plan = new_search(config(trials=4), run)
    one, two, three = next_job(plan), next_job(plan), next_job(plan)
    assert one and two and three
    assert [one.optimizer, two.optimizer, three.optimizer] == ["one", "two", "one"]
    plan.record([(one, ended(one))])
    plan.record([(three, ended(three))])
    assert [job.optimizer for job in (next_job(plan), next_job(plan)) if job] == ["one", "two"]


def test_an_optimizer_is_retrained_while_another_is_searched(run: Run) -> None:
    plan = new_search(config(trials=1), run)
    one, two = next_job(plan), next_job(plan)
    assert one and two
    assert next_job(plan) is None
    plan.record([(one, ended(one))])
    assert run.best()["optimizers"].keys() == {"one"}
    retrained = [next_job(plan), next_job(plan)]
    assert [(job.phase, job.optimizer, job.seed) for job in retrained if job] == [
        ("retrain", "one", 0),
        ("retrain", "one", 1),
    ]
    assert next_job(plan) is None
    plan.record([(two, ended(two))])
    assert str(next_job(plan)) == "two seed 0"


def test_optimizers_take_turns_in_retraining(run: Run) -> None:
    jobs = [job for job in finish(new_search(config(trials=1, seeds=[5, 3]), run)) if job.phase == "retrain"]
    assert list(map(str, jobs)) == ["one seed 5", "two seed 5", "one seed 3", "two seed 3"]


def test_published_defaults_are_tried_first(run: Run) -> None:
    job = next_job(new_search(config(), run))
    assert job == Job("search", "one", 0, SEED, {"lr": 0.5})


# Cohorts.


def cohorts(plan: Plan, state: Callable[[Job], str] = lambda job: "complete") -> list[str]:
    """What was handed out together, one cohort after the other."""
    found = []
    while jobs := plan.next_jobs():
        found.append(", ".join(map(str, jobs)))
        plan.record([(job, ended(job, state(job), len(jobs))) for job in jobs])
    plan.close()
    return found


def test_trials_and_seeds_are_handed_out_in_cohorts_of_one_optimizer(run: Run) -> None:
    assert cohorts(new_search(config(trials=3, seeds=3, cohort=2), run)) == [
        "one trial 0, one trial 1", "two trial 0, two trial 1", "one trial 2", "two trial 2",
        "one seed 0, one seed 1", "two seed 0, two seed 1", "one seed 2", "two seed 2",
    ]  # fmt: skip
    assert run.trials()["cohort"].tolist() == [2, 2, 2, 2, 1, 1]
    assert run.seeds()["cohort"].tolist() == [2, 2, 1] * 2


def test_the_size_that_was_measured_is_each_optimizers_own(run: Run) -> None:
    asked = config(trials=16, seeds=3)
    times = {"one": {1: 1.0, 3: 0.2, 4: 0.1}, "two": {1: 1.0, 3: 0.95}}
    plan = search_plan(asked, run, CohortSizes(asked, times, 3))
    first, second = plan.next_jobs(), plan.next_jobs()
    assert [job.optimizer for job in first] == ["one"] * 4  # a quarter of its trials
    assert [job.optimizer for job in second] == ["two"]  # 5 % are not worth it
    plan.record([(job, ended(job)) for job in first + second])
    assert [handed for handed in cohorts(plan) if "seed" in handed] == [
        "one seed 0, one seed 1, one seed 2", "two seed 0", "two seed 1", "two seed 2",
    ]  # fmt: skip


def test_a_cohort_is_of_the_study_with_the_fewest_trials_under_way(run: Run) -> None:
    plan = new_search(config(trials=8, cohort=3), run)
    one, two = plan.next_jobs(), plan.next_jobs()
    plan.record([(job, ended(job)) for job in two[:2]])
    assert {job.optimizer for job in plan.next_jobs()} == {"two"}  # 1 under way, and 3 of the other
    plan.record([(job, ended(job)) for job in one])
    assert {job.optimizer for job in plan.next_jobs()} == {"one"}


def test_a_cohort_of_which_some_fail_is_recorded_whole(run: Run) -> None:
    plan = new_search(config(trials=3, cohort=3), run)
    jobs = plan.next_jobs()
    plan.record([(job, ended(job, state)) for job, state in zip(jobs, ["failed", "complete", "diverged"], strict=True)])
    assert run.trials()["state"].tolist() == ["failed", "complete", "diverged"]
    assert [str(job) for job, _ in plan.failures] == ["one trial 0"]
    best = run.best()["optimizers"]["one"]
    assert (best["trial"], best["n_trials"], best["n_failed"], best["n_diverged"]) == (1, 3, 1, 1)


def test_study_db_follows_and_holds_nothing_unfinished(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("tuner.planning.phases.time", SimpleNamespace(monotonic=lambda: clock.now))
    plan = new_search(config(trials=6, cohort=3), run)
    jobs = plan.next_jobs()
    plan.record([(jobs[1], ended(jobs[1]))])
    assert plan.search is not None
    for now, written in ((4.0, 0), (6.0, 0), (7.0, 0)):  # the first is still under way
        clock.now = now
        plan.tick()
        plan.search.studies["one", 0].database._writer.submit(int).result()
        assert optuna_states(run, "one") == [TrialState.COMPLETE] * written
    plan.record([(jobs[0], ended(jobs[0]))])
    for now, written in ((8.0, 0), (12.5, 2)):  # not at every tick
        clock.now = now
        plan.tick()
        plan.search.studies["one", 0].database._writer.submit(int).result()
        assert optuna_states(run, "one") == [TrialState.COMPLETE] * written
    plan.close()
    assert optuna_states(run, "one") == [TrialState.COMPLETE] * 2


# What is written.


def test_a_trial_is_a_row_of_trials_csv(run: Run) -> None:
    plan = new_search(config(), run)
    job = next_job(plan)
    assert job
    plan.record([(job, ended(job))])
    (row,) = run.trials().to_dict("records")
    assert math.isnan(row.pop("hp.kind"))  # not a hyperparameter of this optimizer
    assert all(math.isnan(row.pop(column)) for column in ("error", "code", "borrowed"))
    assert row == {"task": "blobs", "optimizer": "one", "study": 0, "trial": 0, "state": "complete", "value": loss(job),
                   "seed": SEED, "steps": 8, "seconds": 0.5, "cohort": 1, "hp.lr": 0.5}  # fmt: skip


def test_a_retrained_seed_is_a_row_of_seeds_csv(run: Run) -> None:
    jobs = [job for job in finish(new_search(config(seeds=[4, 2]), run)) if job.phase == "retrain"]
    rows = run.seeds().drop(columns="error").to_dict("records")
    assert [(row["optimizer"], row["seed"]) for row in rows] == [("one", 2), ("one", 4), ("two", 2), ("two", 4)]
    job = next(job for job in jobs if (job.optimizer, job.seed) == ("two", 2))
    assert math.isnan(rows[2].pop("code")) and math.isnan(rows[2].pop("borrowed"))  # that of the run's beginning
    assert rows[2] == {
        "task": "blobs", "optimizer": "two", "study": 0, "seed": 2, "status": "complete", "train_loss": 2.0,
        "val_loss": loss(job),
        "test_loss": 3.0, "steps": 8, "grad_equivalents": 13.1, "nominal_grad_equivalents": 16.0, "seconds": 0.5,
        "step_ms": 62.5, "peak_mem_mb": 3.0, "cohort": 1, "hp.lr": job.hp["lr"], "hp.kind": job.hp["kind"],
    }  # fmt: skip


def test_curves_are_in_long_form(run: Run) -> None:
    plan = new_search(config(), run)
    job = next_job(plan)
    assert job
    outcome = ended(job)
    outcome.evaluations[1] = replace(outcome.evaluations[1], diagnostics={"clipped_fraction": 0.25})
    plan.record([(job, outcome)])
    plan.close()
    same = {"task": "blobs", "optimizer": "one", "study": 0, "phase": "search", "trial": 0, "seed": SEED}
    same |= {"metric": "loss"}
    first = {"step": 0, "epoch": 0.0, "seconds": 0.0, "grad_equivalents": 0.0}
    last = {"step": 8, "epoch": 1.0, "seconds": 0.5, "grad_equivalents": 16.0}
    assert run.curves().to_dict("records") == [
        same | first | {"split": "val", "value": 5.0},
        same | last | {"split": "train", "value": 2.0},
        same | last | {"split": "val", "value": loss(job)},
        same | last | {"split": "train", "metric": "clipped_fraction", "value": 0.25},
    ]
    assert (run.path / "curves.parquet").exists()


def test_a_failure_leaves_a_log_and_no_value(run: Run) -> None:
    plan = new_search(config(trials=1), run)
    finish(plan, lambda job: "failed" if job.optimizer == "one" else "complete")
    assert [(str(job), error) for job, error in plan.failures] == [("one trial 0", "out of memory")]
    assert (run.logs / "one-trial-0.log").read_text() == "Traceback ...\nout of memory\n"
    assert run.trials()["value"].isna().tolist() == [True, False]
    assert [row.get("error") for row in run.trial_rows()] == ["out of memory", None]
    assert optuna_states(run, "one") == [TrialState.FAIL]


def test_a_lost_worker_leaves_its_error_as_log(run: Run) -> None:
    plan = new_search(config(), run)
    job = next_job(plan)
    assert job
    plan.record([(job, Outcome("failed", error="the worker was lost"))])
    assert (run.logs / "one-trial-0.log").read_text() == "the worker was lost\n"
    assert run.trials()["steps"].tolist() == [0]


def test_a_failed_retraining_run_is_a_row_without_metrics(run: Run) -> None:
    finish(new_search(config(trials=1, seeds=[0]), run), lambda job: "failed" if job.phase == "retrain" else "complete")
    rows = run.seeds()
    assert rows["status"].tolist() == ["failed", "failed"]
    assert rows[["val_loss", "test_loss", "step_ms"]].isna().all().all()
    assert (run.logs / "two-seed-0.log").exists()


def test_an_optimizer_without_valid_trial_is_not_retrained(run: Run) -> None:
    jobs = finish(new_search(config(), run), lambda job: "diverged" if job.optimizer == "one" else "complete")
    assert {job.optimizer for job in jobs if job.phase == "retrain"} == {"two"}
    assert run.best()["optimizers"]["one"]["hp"] is None


def test_an_interrupted_search_leaves_its_best_and_nothing_running(run: Run) -> None:
    plan = new_search(config(trials=4), run)
    jobs = [next_job(plan) for _ in range(4)]
    assert jobs[0] and jobs[2]
    plan.record([(jobs[0], ended(jobs[0]))])
    plan.record([(jobs[2], ended(jobs[2], "diverged"))])
    plan.close()
    assert optuna_states(run, "one") == [TrialState.COMPLETE, TrialState.COMPLETE]
    assert optuna_states(run, "two") == []
    best = run.best()
    assert (best["task"], best["metric"]) == ("blobs", "val_loss")
    entry = {"study": 0, "hp": jobs[0].hp, "value": loss(jobs[0]), "trial": 0, "n_trials": 2, "n_diverged": 1,
             "n_failed": 0, "at_boundary": []}  # fmt: skip
    assert best["optimizers"] == {"one": entry | {"studies": [entry | {"seed": SEED}]}}


def test_a_plan_closed_before_anything_ended_writes_no_best(run: Run) -> None:
    plan = new_search(config(), run)
    next_job(plan)
    plan.close()
    assert not (run.path / "best.json").exists()
    assert optuna_states(run, "one") == []


def test_the_data_are_noted_once(run: Run) -> None:
    run.write_env({"started": "now"})
    plan = new_search(config(), run)
    plan.note_task({"data": {"sha256": "abc"}})
    assert run.env() == {"schema_version": 1, "started": "now", "data": {"sha256": "abc"}}
    (run.path / "env.json").unlink()
    plan.note_task({"data": {"sha256": "abc"}})
    assert not (run.path / "env.json").exists()


def test_the_gpu_that_is_noted_is_the_workers_and_stays_that_of_the_beginning(run: Run) -> None:
    run.write_env({"hardware": {"cpu": "one"}})
    for gpu in ("NVIDIA H200", "NVIDIA A100"):
        new_search(config(), run).note_task({"device": "cuda", "gpu": gpu})
        assert run.env()["hardware"] == {"cpu": "one", "gpus": ["NVIDIA H200"]}
    assert "gpu" not in run.env()


# How far it is.


def test_progress_counts_each_optimizer_and_phase(run: Run) -> None:
    plan = new_search(config(trials=2), run)
    jobs = [next_job(plan) for _ in range(4)]
    assert all(jobs)
    first, second, third, _ = [job for job in jobs if job]
    plan.record([(first, ended(first))])
    plan.record([(second, ended(second, "failed"))])
    plan.record([(third, ended(third, "diverged"))])
    next_job(plan)
    assert plan.progress() == [
        Progress("one", "search", 2, 2, 0, diverged=1, failed=0, best=loss(first)),
        Progress("two", "search", 1, 2, 1, diverged=0, failed=1, best=None),
        Progress("one", "retrain", 0, 2, 1, diverged=0, failed=0),
        Progress("two", "retrain", 0, 2, 0, diverged=0, failed=0),
    ]


def test_a_job_says_what_it_is() -> None:
    job = Job("search", "adam", 3, SEED, {"lr": 0.1})
    assert str(job) == "adam trial 3"
    assert str(replace(job, phase="retrain", seed=7)) == "adam seed 7"
    assert Job(**job.to_dict()) == job
