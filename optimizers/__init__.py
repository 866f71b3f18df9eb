"""Update rules and curvature estimators. Each rule is one pure function of tensors."""

from optimizers.adahessian import AdaHessian
from optimizers.base import CurvatureOptimizer
from optimizers.curvature import Exact, HessianVector, Hutchinson, NoCurvature, Secant
from optimizers.diag_hessian import DiagHessian
from optimizers.gauss_newton import GGNMC, GNB, GGNExact
from optimizers.hessian_lr_adaptation import HessianLRAdaptation, adapt_learning_rate
from optimizers.muon import MuonWithAdamW
from optimizers.sadh import SADH
from optimizers.sophia import Sophia
from optimizers.ssdh import SSDH
from optimizers.ssvp import SSVP
from optimizers.subsampled_newton import SubsampledNewton

__all__ = [
    "GGNMC",
    "GNB",
    "SADH",
    "SSDH",
    "SSVP",
    "AdaHessian",
    "CurvatureOptimizer",
    "DiagHessian",
    "Exact",
    "GGNExact",
    "HessianLRAdaptation",
    "HessianVector",
    "Hutchinson",
    "MuonWithAdamW",
    "NoCurvature",
    "Secant",
    "Sophia",
    "SubsampledNewton",
    "adapt_learning_rate",
]
