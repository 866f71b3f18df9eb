"""The analysis says what is known of the curvature of a network in training, at one of its evaluations."""

from __future__ import annotations

import torch
from torch import nn

from tasks.base import Task
from tuner import text
from tuner.hessian.estimates import compare_estimate
from tuner.hessian.spectrum import analyze
from tuner.training.records import Finding


def analyze_curvature(task: Task, model: nn.Module, optimizer: object) -> tuple[list[Finding], str]:
    """All that is known of the curvature, and in a line why not more; the network is left as it was.

    Args:
        optimizer: that trains the network; its own estimate of the Hessian's diagonal is compared, if it has one.
    """
    findings: list[Finding] = []
    try:
        spectrum = analyze(task, model)
        findings += spectrum.findings()
        agreement = compare_estimate(task, model, optimizer) if spectrum.diagonal is not None else None
        findings += agreement.findings() if agreement else []
    except Exception as error:
        return findings, text.fault(error)
    finally:
        if task.device.type == "cuda":
            torch.cuda.empty_cache()
    return findings, ""
