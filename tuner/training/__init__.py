"""One training run, or a stack of them in lockstep; no Ray, no Optuna."""
