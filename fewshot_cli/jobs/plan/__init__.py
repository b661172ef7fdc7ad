"""What a recipe would cost on a folder: seconds, memory, bytes."""
