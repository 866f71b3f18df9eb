"""The version of this project is said here, and nowhere else."""

VERSION = "0.1.0"
