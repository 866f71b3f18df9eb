"""Estimators of the loss's curvature, and what they share."""
