"""From many data sets to a bank."""
