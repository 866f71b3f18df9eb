"""Processes that do jobs: Ray, the trainable, and the preflight."""
