"""The field's fixed splits: which images are learned from, and which are asked about."""
