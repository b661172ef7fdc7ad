"""Proofs that what is written gives the model's answers. A file that fails its proof never takes its place."""
