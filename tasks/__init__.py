"""Training problems: data, model, loss, metrics. One small module each, named by dotted path in ``configs/tasks``."""
