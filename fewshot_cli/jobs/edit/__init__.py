"""From a classifier to another of more, fewer or other classes, by the features that its file keeps."""
