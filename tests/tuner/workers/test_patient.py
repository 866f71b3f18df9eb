"""A worker that takes longer to come up than training runs last comes up nevertheless."""

from __future__ import annotations

import json
import textwrap

from tests.support.commands import python

SEARCH = """
    import json, os, sys, time
    from unittest import mock
    from tuner.workers import session
    from tuner.workers.tune import Patient
    import ray
    from ray import tune
    from ray.tune.search import Searcher

    class Slow(tune.Trainable):
        def setup(self, config):
            if os.path.exists(config["mark"]):
                time.sleep(2)  # the first is sooner up
            open(config["mark"], "w").close()

        def step(self):
            time.sleep(0.1)
            return {"pid": os.getpid(), "done": True}

        def reset_config(self, config):
            return True

        def save_checkpoint(self, folder):
            return None

        def load_checkpoint(self, checkpoint):
            pass

    class Sixty(Searcher):
        count = 0

        def suggest(self, trial_id):
            if self.count == 60:
                return Searcher.FINISHED
            self.count += 1
            return {"mark": os.path.join(sys.argv[1], "mark"), "number": self.count}

        def on_trial_complete(self, *args, **kwargs):
            pass

        save = restore = on_trial_complete

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    with mock.patch("ray.tune.tune.TuneController", Patient):
        results = tune.Tuner(
            tune.with_resources(Slow, {"cpu": 1}),
            tune_config=tune.TuneConfig(search_alg=Sixty(metric="pid", mode="max"), num_samples=-1, reuse_actors=True),
            run_config=tune.RunConfig(storage_path=sys.argv[1], verbose=0),
        ).fit()
    pids = [result.metrics["pid"] for result in results]
    print(json.dumps([len(pids), sorted(map(pids.count, set(pids)))]))
"""


def test_both_workers_have_their_share_of_short_runs(tmp_path):
    done = python(textwrap.dedent(SEARCH), tmp_path, folder=tmp_path)
    assert done.code == 0, done.err[-2000:]
    runs, shares = json.loads(done.out.splitlines()[-1])
    assert runs == sum(shares) == 60
    assert len(shares) == 2 and min(shares) > 5
