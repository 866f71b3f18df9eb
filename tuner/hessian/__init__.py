"""The Hessian of the loss along a training run."""
