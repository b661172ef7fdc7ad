"""Backbones and classifiers, read and checked."""
