"""Instances of the Rahimi-Recht problem, generated or read from an .npz; without torch, so that it checks fast.

The problem y = A x with an ill-conditioned A is from Rahimi and Recht, "Back when we were young", NIPS 2017 test of
time talk: rows of A grow linearly from 1 to the condition number. A random draw so made only comes near the number;
here its singular values are bent to hit it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

INPUTS, HIDDEN, OUTPUTS, ROWS = 12, 13, 14, 1000
GENERATED = re.compile(r"cond(\d+(?:\.\d+)?(?:[eE]\+?\d+)?)")
MAX_CONDITION_NUMBER = 1e12
FIRST_LAYER, SECOND_LAYER = (HIDDEN, INPUTS), (OUTPUTS, HIDDEN)


@dataclass(frozen=True)
class Instance:
    """One problem.

    Attributes:
        A: the matrix, (14, 12).
        X: inputs, (rows, 12).
        Y: targets, (rows, 14); X A^T where they are generated.
        W1, W2: initial weights, (13, 12) and (14, 13), or None where each seed draws its own.
    """

    A: np.ndarray
    X: np.ndarray
    Y: np.ndarray
    W1: np.ndarray | None = None
    W2: np.ndarray | None = None


def load_instance(dataset: str, data_seed: int = 0) -> Instance:
    """The instance that ``dataset`` names: ``cond<number>`` is generated, anything else is the path of an .npz.

    Raises:
        ValueError: no such name or file, or a file whose arrays do not fit, with a sentence that says what is wrong.
    """
    match = GENERATED.fullmatch(dataset)
    if match:
        try:
            return generate_instance(float(match[1]), data_seed)
        except ValueError as error:
            raise ValueError(f"dataset {dataset}: {error}") from None
    if not dataset.endswith(".npz"):
        raise ValueError(f"dataset {dataset!r} is neither cond<number>, say cond29, nor the path of an .npz file")
    return read_instance(Path(dataset))


def check_dataset(dataset: str, data_dir: str | None) -> None:
    """Raise ``ValueError`` where ``load_instance`` would."""
    load_instance(dataset)


def generate_instance(condition_number: float, seed: int = 0) -> Instance:
    """An instance with that condition number (exact but for rounding), the same for the same seed.

    Raises:
        ValueError: the condition number is not between 1 and 1e12.
    """
    if not 1 <= condition_number <= MAX_CONDITION_NUMBER:
        raise ValueError(
            f"the condition number must be between 1 and {MAX_CONDITION_NUMBER:g}, got {condition_number:g}"
        )
    rng = np.random.default_rng([seed, int(condition_number)])
    ramp = np.linspace(1.0, condition_number, OUTPUTS)[:, None]
    U, s, Vt = np.linalg.svd(ramp * rng.random((OUTPUTS, INPUTS)), full_matrices=False)
    bent = s[0] * (s / s[0]) ** (np.log(condition_number) / np.log(s[0] / s[-1]))
    A = (U * bent) @ Vt
    X = rng.standard_normal((ROWS, INPUTS))
    return Instance(A=A, X=X, Y=X @ A.T)


def read_instance(path: Path) -> Instance:
    """The instance in an .npz with A, X, Y and optionally both W1 and W2.

    Raises:
        ValueError: the file cannot be read, or an array is missing, of the wrong shape, not numeric or not finite.
    """
    try:
        # np.load given a path leaves the file open where the archive is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in ("A", "X", "Y", "W1", "W2") if key in stored.files}
    except FileNotFoundError:
        raise ValueError(f"dataset {path}: no such file") from None
    except Exception as error:  # damage shows as any of a dozen kinds
        raise ValueError(f"dataset {path}: not a readable .npz file ({' '.join(str(error).split())})") from None
    rows = len(arrays["X"]) if "X" in arrays and arrays["X"].ndim else ROWS
    expected = {
        "A": (OUTPUTS, INPUTS),
        "X": (rows, INPUTS),
        "Y": (rows, OUTPUTS),
        "W1": FIRST_LAYER,
        "W2": SECOND_LAYER,
    }
    missing = [key for key in ("A", "X", "Y") if key not in arrays]
    if missing:
        raise ValueError(f"dataset {path}: array {missing[0]} is missing; expected A, X, Y and optionally W1, W2")
    for key, array in arrays.items():
        if array.shape != expected[key]:
            raise ValueError(f"dataset {path}: {key} has shape {array.shape}, expected {expected[key]}")
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise ValueError(f"dataset {path}: {key} must hold finite real numbers")
    if ("W1" in arrays) != ("W2" in arrays):
        raise ValueError(f"dataset {path}: W1 and W2 must be given together")
    if rows < 10:
        raise ValueError(f"dataset {path}: X has {rows} rows, too few to split; expected at least 10")
    return Instance(**{key: array.astype(np.float64) for key, array in arrays.items()})
