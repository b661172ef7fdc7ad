"""The one training loop: objectives, optimisers, schedules."""
