"""How long `python -m tuner.report` takes, of 6 optimizers on 3 tasks with 20 seeds, and how large its page is.

python -m benchmarks.report_time
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.support.made_runs import make_run

EFFECTS = {"diag_hessian": -0.03, "adam": 0.0, "sgdm": 0.02, "sophia": 0.0, "sadh": 0.05, "adamw": 0.0}
TASKS = ("mnist1d", "cifar_cnn", "resnet18")
TIMES = 5


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = [str(make_run(Path(folder) / task, task, EFFECTS, seeds=20, trials=30).path) for task in TASKS]
        out = Path(folder) / "report"
        seconds = []
        for _ in range(TIMES):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "tuner.report", *runs, "--out", str(out), "-q"], check=True,
                           stdout=subprocess.DEVNULL)  # fmt: skip
            seconds.append(time.perf_counter() - started)
        figures = len(list((out / "figures").iterdir()))
        print(f"{median(seconds):.1f} s (of {TIMES}: {min(seconds):.1f} to {max(seconds):.1f} s); report.html "
              f"{(out / 'report.html').stat().st_size / 1e6:.2f} MB; {figures} figures")  # fmt: skip


if __name__ == "__main__":
    main()
