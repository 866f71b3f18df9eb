"""The machine and the process that a command runs on: what there is, and what it ran on."""
