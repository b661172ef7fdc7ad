"""Episodes: how tasks are drawn from pools of images, and how images are prepared and varied."""
