"""Sparse MetA-Tuning: gates over one shared delta, a router, the loss, the step on a GPU."""
