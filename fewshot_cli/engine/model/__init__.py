"""A frozen backbone as a pure function, and the one door from pictures to answers."""
