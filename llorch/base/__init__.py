"""Floor 0: standard library only; everything may import it."""
