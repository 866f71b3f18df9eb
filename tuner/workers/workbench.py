"""The workbench trains cohorts of jobs in one process and keeps task data and classes warm between them. No Ray.

Imports torch when it is made.
"""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tuner import text
from tuner.config.carried import receive
from tuner.config.schema import Config
from tuner.errors import UserError, nearest
from tuner.jobs import EvaluationRecord, Job, Outcome, checkpoint_name
from tuner.planning.messages import Report, Request, TaskSummary
from tuner.workers.device_errors import brief, has_lost_device, is_out_of_memory

if TYPE_CHECKING:
    from tuner.training.records import Budget, Evaluation, Result, Saving, Snapshot
    from tuner.training.single import MakeOptimizer

    Training = Generator[dict[int, Evaluation] | Snapshot, None, list[Result]]

Curves = list[list[EvaluationRecord]]
"""The evaluations of each of the jobs that train as one."""

NO_CHECKPOINTS: Mapping[str, bytes] = {}
STDERR = 2


class UnusableError(Exception):
    """This process can do no other job; it says why."""


class Workbench:
    """Keeps what outlives a job: the task with its data on the device, the optimizers' classes.

    Args:
        objects: what the configuration carries by value: see ``tuner.config.carried``.

    Attributes:
        summary: what env.json says of the task.
        unusable: why this process may do no other job: what one left behind in it, or that its device has failed;
            empty while it may.
    """

    def __init__(self, config: Config, objects: bytes = b"") -> None:
        self.config = config
        receive(config, objects)
        from tuner.training import build, watched_code
        from tuner.workers import gpu, imports  # noqa: F401  (what takes seconds is charged to none)

        self.task = build.make_task(config)
        build.set_up(self.task, config)
        self.engine = build.make_engine(config)
        self.scales: dict[str, float] = {}
        self.unusable = ""
        self.warm: set[str] = set()  # optimizers
        self.watched_code = watched_code.Code(type(self.task))
        parameters = sum(param.numel() for param in self.task.build(0).parameters())
        device = self.task.device
        self.summary = TaskSummary(self.task.data_summary, parameters, device.type, gpu.name_of(device))
        gpu.settle(device)

    def reports(self, request: Request, *, every_evaluation: bool) -> Generator[Report]:
        """Train the jobs of a request, what can be stacked in lockstep.

        Args:
            every_evaluation: report those of a single job, but for the first and the last.
        """
        from tuner.training import build, stack

        jobs = request.jobs
        build.limit_memory(self.config, self.task.device, alone=request.alone)
        members = [stack.Member(job.hp, job.seed) for job in jobs]
        with self._isolated(jobs[0]):  # the class is imported here, so that what that does is undone for all its runs
            make = self._optimizer(jobs[0])
            stacks = stack.stacks(self.task, make, members, self.engine) if len(jobs) > 1 else [[0]]
        for stackable in stacks:
            yield from self._train_stack(request, stackable, every_evaluation=every_evaluation and len(jobs) == 1)

    def _train_stack(self, request: Request, stackable: list[int], *, every_evaluation: bool) -> Iterator[Report]:
        """Train jobs that can be stacked, by their index, as one, or one at a time where that fails.

        Raises:
            UnusableError: the stack failed, and left a process in which no other job can be done.
        """
        from tuner.training import stack

        def run(indices: list[int]) -> Iterator[Report]:
            jobs = [request.jobs[index] for index in indices]
            if len(jobs) > 1:
                yield from self._train_together(jobs, request.checkpoints)
            elif self.unusable and len(stackable) > 1:
                raise UnusableError(self.unusable)
            else:
                yield from self._train_one(jobs[0], request.checkpoints, every_evaluation=every_evaluation)

        for indices, report in stack.together_or_singly(stackable, run, self.task.device):
            yield report.at(indices)

    @contextmanager
    def _isolated(self, job: Job) -> Iterator[None]:
        """Undo what a job leaves behind in this process; where that cannot be, the process is unusable."""
        from tuner.training.isolation import restored
        from tuner.training.watched_code import listed

        lasting: list[str] = []
        lost = False
        try:
            with restored(lasting):
                yield
        except Exception as error:
            lost = has_lost_device(error)  # whose random streams cannot be put back
            raise
        finally:
            if (changes := self.watched_code.changed() + lasting) and not lost:
                self.unusable = (
                    f"{job.optimizer}: a run of it changed {listed(changes)}, which cannot be undone; "
                    "the worker was replaced, so that other runs see nothing of it"
                )

    def _train_together(self, jobs: Sequence[Job], checkpoints: Mapping[str, bytes] | None) -> Iterator[Report]:
        """Train jobs as a stack; what goes wrong is raised."""
        try:
            yield from self._train(jobs, new_curves(jobs), checkpoints)
        except Exception as error:
            if has_lost_device(error):
                self.unusable = (
                    f"{jobs[0].optimizer}: the GPU failed a cohort of {len(jobs)}, its worker was replaced; each of "
                    f"them is done again alone ({brief(error)})"
                )
            raise

    def _train_one(
        self, job: Job, checkpoints: Mapping[str, bytes] | None, *, every_evaluation: bool
    ) -> Iterator[Report]:
        """Train a single job; what goes wrong is its outcome."""
        from optimizers.stacking.replay import ChangedError
        from tuner.training import stack

        curves = new_curves([job])
        failed = None
        try:
            yield from self._train([job], curves, checkpoints, every_evaluation=every_evaluation)
            return
        except ChangedError:  # of what was captured of a step: it is not captured from now on
            pass
        except Exception as error:
            failed = failure(error, curves[0])
            if has_lost_device(error):
                self.unusable = f"{job}: the GPU failed it, and its worker was replaced"
        if failed is None:
            anew = None if checkpoints is None else NO_CHECKPOINTS
            yield from self._train_one(job, anew, every_evaluation=every_evaluation)
            return
        if not self.unusable:
            stack.release_memory(self.task.device)
        yield Report({0: failed})

    def _train(
        self,
        jobs: Sequence[Job],
        curves: Curves,
        checkpoints: Mapping[str, bytes] | None,
        *,
        every_evaluation: bool = False,
    ) -> Iterator[Report]:
        """Train jobs as one, from their checkpoint where there is one, and fill in their curves."""
        from tuner.training import stack
        from tuner.training.records import NotRestoredError, Saving

        interval_s = None if checkpoints is None else self.config.faults.checkpoint_s
        saved = self._saved(jobs, checkpoints or NO_CHECKPOINTS)
        if saved is not None:
            curves[:], state = saved
            with suppress(NotRestoredError):  # by another version, say: begin anew
                yield from self._train_from(Saving(state, interval_s), jobs, curves, every_evaluation)
                return
            stack.release_memory(self.task.device)
            curves[:] = new_curves(jobs)
        yield from self._train_from(Saving(None, interval_s), jobs, curves, every_evaluation)

    def _train_from(
        self, saving: Saving, jobs: Sequence[Job], curves: Curves, every_evaluation: bool
    ) -> Iterator[Report]:
        from tuner.workers import gpu

        budget = self._budget(jobs[0])
        with self._isolated(jobs[0]), closing(self._start(jobs, budget, saving)) as run:
            results = yield from self._report_on(run, jobs, curves, budget, every_evaluation)
            gpu.finish(self.task.device, self.config.resources.settled.gpus_per_trial)
        outcomes = map(self._outcome, jobs, results, curves)
        yield Report(dict(enumerate(outcomes)))  # only now is it known what they left behind

    def _start(self, jobs: Sequence[Job], budget: Budget, saving: Saving) -> Training:
        """Begin the training, with the steps and the count before it, which are within the time limit."""
        from tuner.training import stack
        from tuner.workers import gpu

        make = self._optimizer(jobs[0])
        if jobs[0].optimizer not in self.warm:
            self.warm.add(jobs[0].optimizer)
            gpu.warm_up(self.task, make, jobs[0].hp, self.engine)
        members = [stack.Member(job.hp, job.seed) for job in jobs]
        scale = self._curvature_scale(jobs[0], make)
        return (yield from stack.training(self.task, make, members, budget, self.engine, saving, scale))

    def _curvature_scale(self, job: Job, make: MakeOptimizer) -> float:
        """The factor on nominal costs, counted once for an optimizer and its choices and whole numbers; its other
        hyperparameters are those of its first point, so that all workers come to the same."""
        from tuner.training.flops import curvature_scale

        spec = self.config.optimizers[job.optimizer]
        own = {name: dim for name, dim in spec.space.items() if name not in spec.of_training}
        continuous = {name for name, dim in own.items() if dim.choices is None and not dim.integer}
        discrete = {name: job.hp[name] for name in own if name in job.hp and name not in continuous}
        key = f"{job.optimizer} {discrete}"
        if key not in self.scales:
            scale, uncounted = curvature_scale(self.task, make, spec.first_point() | discrete)
            if uncounted:  # for want of memory, say, which there may be for the next
                return scale
            self.scales[key] = scale
        return self.scales[key]

    def _report_on(
        self, run: Training, jobs: Sequence[Job], curves: Curves, budget: Budget, every_evaluation: bool
    ) -> Generator[Report, None, list[Result]]:
        """Fill in the curves, report on the way, return the results."""
        from tuner.training import checkpoint
        from tuner.training.records import Snapshot

        limit_s = self.config.faults.trial_limit_s
        deadline = None if limit_s is None else time.monotonic() + limit_s * len(jobs)
        while True:
            try:
                with process_ends_at(deadline):
                    yielded = next(run)
            except StopIteration as stop:
                return stop.value
            if isinstance(yielded, Snapshot):
                plain_curves = [[asdict(evaluation) for evaluation in curve] for curve in curves]
                content = {"jobs": [job.to_dict() for job in jobs], "curves": plain_curves, "state": yielded.state}
                if (data := checkpoint.pack(content)) is not None:
                    yield Report(checkpoint=(list(range(len(jobs))), data))
                continue
            for member, evaluation in yielded.items():
                curves[member].append(self._recorded(evaluation))
            if every_evaluation and 0 < yielded[0].epoch < budget.epochs:
                clocks = {"steps": yielded[0].step, "seconds": yielded[0].seconds}
                yield Report(if_stopped={0: Outcome("stopped", yielded[0].metrics, clocks, list(curves[0]))})

    def _saved(self, jobs: Sequence[Job], checkpoints: Mapping[str, bytes]) -> tuple[Curves, dict[str, Any]] | None:
        """Curves and state from the checkpoint of these jobs; ``None`` where there is none that can be read."""
        data = checkpoints.get(checkpoint_name(jobs))
        if data is None:
            return None
        from tuner.training import checkpoint

        try:
            saved = checkpoint.unpack(data)
            matches = saved["jobs"] == [job.to_dict() for job in jobs] and saved.keys() == {"jobs", "curves", "state"}
            curves = [[EvaluationRecord(**values) for values in curve] for curve in saved["curves"]]
        except (checkpoint.UnreadableError, LookupError, TypeError):
            return None
        return (curves, saved["state"]) if matches else None

    def _recorded(self, evaluation: Evaluation) -> EvaluationRecord:
        """The evaluation as it travels.

        Raises:
            UserError: the task does not know the metric that the search ranks by.
        """
        metric = self.config.task.metric
        if metric not in evaluation.metrics:
            raise UserError(f"task.metric: the task has no metric {metric!r}{nearest(metric, evaluation.metrics)}")
        return EvaluationRecord(**asdict(evaluation))

    def _outcome(self, job: Job, result: Result, curve: list[EvaluationRecord]) -> Outcome:
        from tuner.training import weights

        about = {"task": self.config.task.name, "class": self.config.task.class_, **job.to_dict()}
        return Outcome(
            result.status,
            result.metrics,
            asdict(result.clocks),
            curve,
            error=result.why,
            cohort=result.cohort,
            weights=None if result.weights is None else weights.pack(result.weights, about),
        )

    def _optimizer(self, job: Job) -> MakeOptimizer:
        from tuner.training import build

        return build.optimizer_maker(job.optimizer, self.config.optimizers[job.optimizer])

    def _budget(self, job: Job) -> Budget:
        """The budget of the job's phase; only a retraining run reads the test split."""
        from tuner.hessian.analysis import analyze_curvature
        from tuner.training.records import Budget

        retrain = job.phase == "retrain"
        return Budget(
            self.config.retrain_epochs if retrain else self.config.train.epochs,
            self.config.train.evaluations,
            test=retrain,
            analyze_every=self.config.retrain.analyze_curvature if retrain else None,
            analyze=analyze_curvature,
            keep_weights=retrain and self.config.retrain.keep_weights,
        )


@contextmanager
def process_ends_at(deadline: float | None) -> Iterator[None]:
    """End this process, by a timer that needs no interpreter lock, where the block goes on beyond this time."""
    if deadline is None:
        yield
        return
    faulthandler.dump_traceback_later(max(deadline - time.monotonic(), 0.001), exit=True, file=STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def new_curves(jobs: Sequence[Job]) -> Curves:
    return [[] for _ in jobs]


def failure(error: Exception, curve: list[EvaluationRecord]) -> Outcome:
    """The outcome of a job in which this went wrong."""
    return Outcome(
        "failed",
        evaluations=curve,
        error=text.fault(error),
        traceback=text.tracebacks(error),
        out_of_memory=is_out_of_memory(error),
    )
