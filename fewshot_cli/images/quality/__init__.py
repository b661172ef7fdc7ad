"""What is wrong with pictures."""
