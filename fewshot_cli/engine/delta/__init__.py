"""Deltas: what to add to weights, how to choose, merge and spell it."""
