"""A frozen backbone as a pure function, and the adapted model from pictures to logits."""
