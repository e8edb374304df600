"""The engine's brain: which sequences run in the next forward pass, and what of their text may be sent. Pure."""
