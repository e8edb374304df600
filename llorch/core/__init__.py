"""The orchestrator's brain. Pure: no I/O, no clock, no randomness."""
