"""An optimizer's failure is read for what it wants that it is not given here. No torch, no ray."""

from __future__ import annotations

import re
import traceback

from tuner import text
from tuner.config.space import OptimizerConfig

MAKER = "name a function (params, ...) as its class that makes it so"
WANTS = (
    (r"'str' object is not callable", f"a class where it was given a text{{texts}}; {MAKER}"),
    (r"Tensor\.__contains__ only supports", f"parameter groups (mappings), not the list of all parameters; {MAKER}"),
    (
        r"'(list|generator)' object has no attribute '(named_)?(modules|parameters|children|buffers)'",
        "the model itself, not its parameters, which are all that an optimizer gets here",
    ),
    (
        r"element 0 of tensors does not require grad",
        "loss.backward(create_graph=True), which only a subclass of optimizers.CurvatureOptimizer is given here",
    ),
)
"""What an error says, and what the optimizer wants that raised it."""


def diagnose(error: Exception, spec: OptimizerConfig) -> str:
    """A sentence, or nothing where the error is none of those that speak of something else than what is wanted."""
    name, fault = spec.class_.rpartition(".")[2], text.fault(error)
    if fault == "AssertionError":
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return text.line(f"{name} wants what line {frame.lineno} of {frame.filename} asserts: {frame.line}")
    for pattern, wanted in WANTS:
        if re.search(pattern, fault):
            texts = ", ".join(f"{key}: {value}" for key, value in spec.args.items() if isinstance(value, str))
            return f"{name} wants {wanted.format(texts=f' ({texts})' if texts else '')}"
    return ""
