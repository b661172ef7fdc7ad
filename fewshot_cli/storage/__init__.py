"""Where things lie: atomic writes, caches, journals, the hub."""
