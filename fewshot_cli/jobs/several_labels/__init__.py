"""Classifiers that may give an image several labels."""
