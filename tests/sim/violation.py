"""What judges raise."""


class Violation(AssertionError):
    """A promise was broken."""
