"""Thousands of trivial trials, some of which go wrong, under a driver that is killed: what is lost, does memory grow?

Run as `python -m benchmarks.soak --out docs/reliability.md` from the repository root, on Linux, with nothing else to
do. A search as a person would start it; twice its driver is killed with all of Ray and the search resumed. What the run
directory must then hold is reckoned from the trials' learning rates: see `benchmarks.soak_trials`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from statistics import median

import psutil

from benchmarks import soak_trials
from benchmarks.bench_processes import ON_TWO_CORES, ROOT, Bench, BenchmarkError, Claim, resident_mb, say
from benchmarks.search_throughput import setting
from benchmarks.soak_trials import FAULTS, OPTIMIZER, SOUND, Row
from tuner.errors import DONE, PARTLY
from tuner.store.run import Run

TASK, SEED = "rahimi_recht", 1000
LIMIT_S = 8  # of a trial, to find those that hang
KILLS = (0.25, 0.45)  # of all trials: the second half is one driver's
LOOK_S, SAMPLE_S = 0.05, 0.5
LONGEST_S = 3600.0
END_S = 10.0  # for Ray's processes to go after the driver went
GROWTH_MB = 10.0  # per 1,000 trials
SETTLED = 0.25  # of a worker's life, in which caches fill
LONG = 0.2  # of all trials, during which a worker must have lived for a slope to mean anything
FEWEST, FEWEST_IN_TENTH = 20, 3  # points for a slope, in a tenth

INTRO = """\
Searches of {trials:,} trials: {task} for one epoch, some milliseconds of training each, random sampler, two slots,
`faults.trial_limit_s={limit}`, everything else as it comes. One is undisturbed. In the others an Adam of one's own
spoils {share:.0%} of the trials at step {step}, chosen by a hash of the learning rate; and once {kills} of the trials
had ended, SIGKILL took the driver and all processes of Ray at once, and the search went on by `--resume`. Then the
files of the run were compared with what the learning rates tell, and all trials that were complete were trained again
in another process: alone they must have the same value to the bit.

Memory is what is resident, shared pages included, in MB of 2^20 bytes, read from outside twice a second. Once, after
some seconds, the driver loads what writes study.db, some 40 MB; at the end it reads all tables and writes
curves.parquet. The slopes are of the time between."""


@dataclass(frozen=True)
class Sample:
    """At one moment: trials that have ended, the driver's and the workers' resident memory in MB, by process."""

    done: int
    driver: float
    workers: dict[int, float]


@dataclass
class Life:
    """One driver's: moments in seconds.

    Attributes:
        before, done: trials that had ended when it began, and when it ended.
        first: when the first trial of its own ended.
    """

    began: float
    before: int
    done: int = 0
    first: float | None = None
    ended: float = 0.0
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True)
class Soak:
    """One search with all that befell it.

    Attributes:
        begun: how often a trial was begun by a driver; retries of one driver do not count.
        left: processes that were there after the last driver's end.
    """

    cohort: str
    trials: int
    rows: list[Row]
    lives: list[Life]
    begun: int
    left: list[str]
    code: int
    files: list[Claim]

    @property
    def samples(self) -> list[Sample]:
        return [sample for life in self.lives for sample in life.samples]

    def claims(self) -> list[Claim]:
        memory = [self.grown("driver", self.driver()), self.grown("workers", self.largest_worker())]
        ended = soak_trials.claim("no process of Ray is left", self.left)
        code = Claim(f"the exit code is 0, since every trial is accounted for: {self.code}", self.code == 0)
        return [*self.files, ended, code, *(claim for claim in memory if claim)]

    def driver(self) -> list[tuple[int, float]]:
        return [(sample.done, sample.driver) for sample in self.samples if sample.driver == sample.driver]

    def largest_worker(self) -> list[tuple[int, float]]:
        return [(sample.done, max(sample.workers.values())) for sample in self.samples if sample.workers]

    def grown(self, whose: str, points: list[tuple[int, float]]) -> Claim | None:
        """``None`` where there were too few samples."""
        more = self.late_slope(points)
        text = f"memory, {whose}: {more:.1f} MB more per 1,000 trials in the second half, wanted at most {GROWTH_MB:g}"
        return None if math.isnan(more) else Claim(text, more <= GROWTH_MB)

    def late_slope(self, points: list[tuple[int, float]]) -> float:
        """Over the second half of the trials; what a driver does after the last one is not among it."""
        return slope([point for point in points if self.trials / 2 <= point[0] < self.trials])

    def ratio(self, points: list[tuple[int, float]]) -> float | None:
        """The median in the last tenth of the trials over that in the second."""
        tenth = self.trials / 10
        early = [mb for done, mb in points if tenth <= done < 2 * tenth]
        late = [mb for done, mb in points if 9 * tenth <= done < self.trials]
        return median(late) / median(early) if min(len(early), len(late)) >= FEWEST_IN_TENTH else None

    def worker_slopes(self) -> list[float]:
        """Of each worker that lived long, after it had settled."""
        lives: dict[int, list[tuple[int, float]]] = {}
        for sample in self.samples:
            for process, mb in sample.workers.items():
                lives.setdefault(process, []).append((sample.done, mb))
        found = []
        for points in lives.values():
            first, last = points[0][0], points[-1][0]
            if last - first >= LONG * self.trials:
                found.append(slope([point for point in points if point[0] >= first + SETTLED * (last - first)]))
        return [value for value in found if value == value]


def slope(points: list[tuple[int, float]]) -> float:
    """The median of all pairs' slopes, MB per 1,000 trials."""
    from scipy.stats import theilslopes

    if len({done for done, _ in points}) < FEWEST:
        return float("nan")
    done, mb = zip(*points, strict=True)
    return 1000 * float(theilslopes(mb, done).slope)


def processes(session: int) -> dict[int, str]:
    """Those of a session that are no zombies, with their names."""
    names = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it may have ended meanwhile
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                names[process.pid] = process.name()
    return names


@contextmanager
def driver(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A session of its own, so that Ray's processes are found; none is left."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
        )  # fmt: skip
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """The driver and all processes of its Ray, however many they become meanwhile."""
    while there := processes(process.pid):
        for one in there:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        process.poll()
        time.sleep(0.01)
    process.wait()


def ended_trials(run: Run) -> int:
    try:
        return max(0, (run.path / "trials.csv").read_bytes().count(b"\n") - 1)
    except FileNotFoundError:
        return 0


def live(process: subprocess.Popen[bytes], run: Run, until: int | None) -> tuple[Life, int | None]:
    """Watch a driver until so many trials have ended, or to its end; its life and its exit code."""
    life = Life(time.time(), ended_trials(run))
    sampled = 0.0
    while (code := process.poll()) is None:
        now, life.done = time.time(), ended_trials(run)
        if life.first is None and life.done > life.before:
            life.first = now
        if until is not None and life.done >= until:
            break
        if now - life.began > LONGEST_S:
            raise BenchmarkError(f"still at work after {LONGEST_S:g} s")
        if now - sampled >= SAMPLE_S:
            sampled = now
            life.samples.append(sample(process, life.done))
        time.sleep(LOOK_S)
    life.ended, life.done = time.time(), ended_trials(run)
    return life, code


def sample(process: subprocess.Popen[bytes], done: int) -> Sample:
    workers = [pid for pid in processes(process.pid) if is_worker(pid)]
    found = {pid: mb for pid in workers if (mb := resident_mb(pid)) == mb}
    return Sample(done, resident_mb(process.pid), found)


def is_worker(pid: int) -> bool:
    """Ray names its processes after the class and the method that they are at."""
    try:
        title = " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return False
    return title.startswith(("ray::Worker", "ray::ResourceTrainable"))


def remaining(process: subprocess.Popen[bytes]) -> list[str]:
    """Names of processes that do not go by themselves."""
    until = time.time() + END_S
    while (there := processes(process.pid)) and time.time() < until:
        time.sleep(LOOK_S)
    return sorted(there.values())


def soak(
    bench: Bench, cohort: str, trials: int, share: float, kills: Sequence[float] = KILLS, seed: int = SEED
) -> Soak:
    """One search.

    Args:
        share: of the trials that are spoilt.
        kills: of the trials, when the driver is killed.

    Raises:
        BenchmarkError: a driver ended by itself before its time, or did not come to an end.
    """
    scratch = bench.scratch / f"{cohort}-{share:g}"
    marks, run, log = scratch / "marks", Run(scratch / "run"), scratch / "driver.log"
    marks.mkdir(parents=True)
    soak_trials.write_configs(scratch / "configs", share, marks)
    environment = bench.environment | {"TMPDIR": str(bench.scratch), "RAY_TMPDIR": str(bench.scratch)}
    search = [sys.executable, "-m", "tuner.search", "--quiet"]
    begin = [
        *("--task", TASK, "--optimizers", OPTIMIZER, "--configs", str(scratch / "configs"), "--trials", str(trials)),
        *("--studies", "1", "--sampler", "random", "--cohort", cohort, "--seeds", "0,", *ON_TWO_CORES),
        *("--out", str(scratch), "--name", run.path.name),
        *("--set", "train.epochs=1", "train.evaluations=1", "retrain.epochs=1"),
        *(f"search.seed={seed}", f"faults.trial_limit_s={LIMIT_S}"),
    ]
    lives = []
    for number, until in enumerate([*(int(part * trials) for part in kills), None]):
        say(f"{trials} trials, --cohort {cohort}: {'resuming' if number else 'searching'} ...")
        with driver([*search, *(["--resume", str(run.path)] if number else begin)], environment, log) as process:
            life, code = live(process, run, until)
            left = remaining(process) if until is None else []
        lives.append(life)
        if code is not None and (until is not None or code not in (DONE, PARTLY)):
            raise BenchmarkError(f"the driver's exit code is {code}; its last words:\n{log.read_text()[-3000:]}")
    samples = [[number, *astuple(one)] for number, life in enumerate(lives) for one in life.samples]
    (scratch / "samples.json").write_text(json.dumps(samples), encoding="utf-8")
    say("checking ...")
    begun = (run.logs / "asked.jsonl").read_bytes().count(b"\n")
    rows, files = soak_trials.read_rows(run, share), soak_trials.claims(run, share, trials)
    return Soak(cohort, trials, rows, lives, begun, left, code or 0, files)


def section(found: Soak) -> list[str]:
    """The figures."""
    lines = ["| trials that ... | trials | complete | diverged | failed | what trials.csv says of the first |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | --- |"]
    for fault in (*FAULTS, SOUND):
        own = [row for row in found.rows if row.fault == fault]
        counts = [str(sum(row.state == state for row in own)) for state in ("complete", "diverged", "failed")]
        if own:
            lines.append(f"| {fault.what} | {len(own)} | {' | '.join(counts)} | {own[0].error} |")
    return [*lines, "", *times(found), "", *memory(found)]


def times(found: Soak) -> list[str]:
    span = sum(life.ended - life.began for life in found.lives)
    working = sum(life.ended - (life.first or life.ended) for life in found.lives)
    first, *resumed = [f"{(life.first or life.ended) - life.began:.0f}" for life in found.lives]
    workers = len({process for sample in found.samples for process in sample.workers})
    lines = [
        f"- {span:.0f} s in all, {working:.0f} s of them from each driver's first trial to its end: "
        f"{60 * found.trials / working:,.0f} trials per minute",
        f"- from the command to the first trial's end: {first} s",
        f"- largest cohort: {max(row.cohort for row in found.rows)}; workers, of which each takes seconds to start: "
        f"{workers}",
    ]
    if resumed:
        again = found.begun - found.trials
        lines.append(f"- from a kill to the next trial's end: {' and '.join(resumed)} s; trials begun again: {again}")
    return lines


def memory(found: Soak) -> list[str]:
    points = {"driver": found.driver(), "largest worker": found.largest_worker()}
    slopes = sorted(found.worker_slopes())
    lines = [
        "| memory, MB | greatest | at the end | more per 1,000 trials, second half | last tenth over second tenth |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for whose, own in points.items():
        ratio = found.ratio(own)
        lines.append(
            f"| {whose} | {max(mb for _, mb in own):.0f} | {own[-1][1]:.0f} | {found.late_slope(own):.1f} | "
            f"{'-' if ratio is None else f'{ratio:.3f}'} |"
        )
    if slopes:
        each = ", ".join(f"{value:.1f}" for value in slopes)
        lines += ["", f"Of each worker that lived through a fifth of the trials, MB more per 1,000: {each}."]
    return lines


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks.soak", description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--trials", type=int, default=2000, metavar="N", help="of each search (default: 2000)")
    add("--share", type=float, default=0.05, metavar="S", help="of trials that are spoilt (default: 0.05)")
    add("--cohorts", nargs="+", default=["1"], metavar="auto|M", help="a search for each (default: 1)")
    add("--keep", type=Path, metavar="DIR", help="leave the runs in this new folder (a short path, say /tmp/soak)")
    add("--out", type=Path, metavar="FILE", help="write the page there, in Markdown")
    return parser


def main() -> int:
    args = make_parser().parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # no driver is left behind
    command = " ".join(["python -m benchmarks.soak", *sys.argv[1:]])
    of = {"trials": args.trials, "share": args.share, "task": TASK, "step": soak_trials.AT_STEP, "limit": LIMIT_S}
    intro = INTRO.format(kills=" and ".join(f"{part:.0%}" for part in KILLS), **of)
    text = ["# What a search survives", "", f"Written by `{command}`.", "", *setting(), "", intro]
    if args.keep:
        args.keep.mkdir()
    verdict: list[Claim] = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as scratch:
        bench = Bench(args.keep or Path(scratch))
        ways = [(cohort, args.share, KILLS) for cohort in args.cohorts]
        for cohort, share, kills in [("1", 0.0, ()), *ways]:
            title = f"`--cohort {cohort}`" + ("" if kills else ", undisturbed")
            text += ["", f"## {args.trials:,} trials, {title}", ""]
            try:
                found = soak(bench, cohort, args.trials, share, kills)
            except BenchmarkError as error:
                say(f"error: {error}")
                text, failed = [*text, f"FAILED: {error}"], True
                continue
            text += section(found)
            verdict += [Claim(f"{title}: {claim.text}", claim.met) for claim in found.claims()]
    text += ["", "## Verdict", "", *map(str, verdict)]
    print("\n".join(text))
    if args.out:
        args.out.write_text("\n".join(text) + "\n", encoding="utf-8")
    return 1 if failed or not all(claim.met for claim in verdict) else 0


if __name__ == "__main__":
    sys.exit(main())
