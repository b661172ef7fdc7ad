"""What `predict` is made of."""
