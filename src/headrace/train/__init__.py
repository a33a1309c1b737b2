"""Training of nano, the embedded model, on the synthetic world."""

from headrace.train.nano import measure_nano, train_nano

__all__ = ["measure_nano", "train_nano"]
