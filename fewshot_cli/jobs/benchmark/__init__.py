"""Methods compared over many episodes."""
