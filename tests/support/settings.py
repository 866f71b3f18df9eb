"""Each elementwise rule with hyperparameters at which all its terms count."""

from optimizers import SADH, SSDH, SSVP, AdaHessian, DiagHessian, Sophia

CLIPPED = {"lr": 0.05, "betas": (0.9, 0.8), "rho": 0.2, "eps": 1e-2, "weight_decay": 0.1}
ADAM = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 0.1, "weight_decay": 0.1}
SETTINGS = {
    SADH: CLIPPED,
    SSDH: CLIPPED,
    SSVP: CLIPPED,
    Sophia: CLIPPED,
    AdaHessian: ADAM,
    DiagHessian: {**ADAM, "diff": 0.5, "square": 3.0, "damping": 0.1},
}
