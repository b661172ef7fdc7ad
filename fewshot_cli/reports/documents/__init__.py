"""Pages, tables and cards."""
