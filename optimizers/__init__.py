"""Update rules and curvature estimators. Each rule is one pure function of tensors."""

from optimizers.base import CurvatureOptimizer
from optimizers.curvature import Exact, Hutchinson, NoCurvature
from optimizers.diag_hessian import DiagHessian

__all__ = ["CurvatureOptimizer", "DiagHessian", "Exact", "Hutchinson", "NoCurvature"]
