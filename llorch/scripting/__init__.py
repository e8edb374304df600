"""Policy scripts: a child process that runs them, and the side of it that orchestratord speaks to."""
