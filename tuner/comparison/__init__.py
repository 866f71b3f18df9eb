"""Runs of one task become one comparison, and its results."""
