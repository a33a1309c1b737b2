"""Pruners drop visual rows between decoder layers."""
