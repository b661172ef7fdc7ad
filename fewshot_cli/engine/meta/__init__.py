"""Meta-tuning: practice tasks, losses, and how they are drawn."""
