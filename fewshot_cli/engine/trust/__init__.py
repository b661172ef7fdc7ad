"""What measured numbers say: metrics and intervals."""
