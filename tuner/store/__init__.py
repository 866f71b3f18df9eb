"""The run directory: every file that a run leaves, written whole or a line at a time."""
