"""Update rules and curvature estimators. Each rule is one pure function of tensors."""

from optimizers.base import CurvatureOptimizer
from optimizers.curvature.estimators import Exact, HessianVector, Hutchinson, NoCurvature, Secant
from optimizers.curvature.gauss_newton import GGNMC, GNB, GGNExact
from optimizers.first_order import FirstOrderOptimizer
from optimizers.rules.adahessian import AdaHessian
from optimizers.rules.diag_hessian import DiagHessian
from optimizers.rules.hessian_lr_adaptation import HessianLRAdaptation, adapt_learning_rate
from optimizers.rules.muon import MuonWithAdamW
from optimizers.rules.nadamw import NAdamW
from optimizers.rules.one_minus_betas import with_one_minus_betas
from optimizers.rules.sadh import SADH
from optimizers.rules.sophia import Sophia
from optimizers.rules.ssdh import SSDH
from optimizers.rules.ssvp import SSVP
from optimizers.rules.subsampled_newton import SubsampledNewton

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
    "FirstOrderOptimizer",
    "GGNExact",
    "HessianLRAdaptation",
    "HessianVector",
    "Hutchinson",
    "MuonWithAdamW",
    "NAdamW",
    "NoCurvature",
    "Secant",
    "Sophia",
    "SubsampledNewton",
    "adapt_learning_rate",
    "with_one_minus_betas",
]
