"""alphaflow: train one-step and few-step generators from scratch."""

__version__ = "0.1.0"
