"""Backbones: one adapter file per model family, the only doorway to transformers."""
