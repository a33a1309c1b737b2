"""Training of nano, the embedded model, on the synthetic world."""

from headrace.train.nano import train_nano

__all__ = ["train_nano"]
