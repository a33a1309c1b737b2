"""Compressors thin visual tokens before the decoder."""
