"""Entropy codes of positions and whole numbers."""
