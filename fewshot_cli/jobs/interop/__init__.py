"""To other formats and from them."""
