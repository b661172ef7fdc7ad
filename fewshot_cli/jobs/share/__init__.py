"""What a file holds and comes from; composing, pushing and pulling it."""
