"""From a few labelled photos to a classifier in a small file."""

__version__ = "0.1.0"
