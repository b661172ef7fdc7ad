"""From a folder to a classifier, to answers, and to how good they are."""
