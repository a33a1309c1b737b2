"""Encoders turn the frames of a step into visual tokens."""
