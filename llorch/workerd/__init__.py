"""The worker daemon: one model behind HTTP. It decides nothing, streams tokens, and may be killed at any time."""
