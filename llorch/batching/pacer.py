"""How many prompt tokens the next step may compute, by the speed learnt from the steps before.

Whoever decodes waits for the whole step, so a prompt may make it three times as long as it is without, not more; with
nobody decoding it only has to end soon enough to take the next sequence in.
"""

from __future__ import annotations

STRETCH_MAX = 3.0
STEP_S_MAX = 0.25
TOKENS_MIN = 16
TOKENS_FIRST = 64
SMOOTHING = 0.25
OUTLIER = 4.0
EXTRA_SHARE_MIN = 0.1


class Pacer:
    """Learns seconds of decoding by batch size, in powers of two, and seconds of a prompt token."""

    def __init__(self, step_tokens_max: int) -> None:
        assert step_tokens_max > 0
        self._tokens_max = step_tokens_max
        self._decode_s: dict[int, float] = {}
        self._prefill_token_s: float | None = None

    def budget(self, decode_tokens: int) -> int:
        """Prompt tokens for the next step beside `decode_tokens` others."""
        seconds = STEP_S_MAX
        if decode_tokens:
            seconds = self._seconds_of(decode_tokens) * (STRETCH_MAX - 1)
        tokens = TOKENS_FIRST
        if seconds and self._prefill_token_s is not None:
            tokens = int(min(self._tokens_max, seconds / self._prefill_token_s))
        return min(self._tokens_max, max(TOKENS_MIN, tokens))

    def learn(self, decode_tokens: int, prefill_tokens: int, seconds: float) -> None:
        """What a step took."""
        if seconds <= 0:
            return
        if prefill_tokens:
            extra = seconds - self._seconds_of(decode_tokens) if decode_tokens else seconds
            # A step as short as without its prompt tokens says that these are cheap, not that they are free.
            sample = max(extra, seconds * EXTRA_SHARE_MIN) / prefill_tokens
            self._prefill_token_s = _smoothed(self._prefill_token_s, sample)
        elif decode_tokens:
            size = decode_tokens.bit_length()
            self._decode_s[size] = _smoothed(self._decode_s.get(size), seconds)

    def _seconds_of(self, decode_tokens: int) -> float:
        """A step of so many decoded tokens and nothing else, by the nearest size known; 0 when none is."""
        size = decode_tokens.bit_length()
        nearest = min(self._decode_s, key=lambda known: abs(known - size), default=size)
        return self._decode_s.get(nearest, 0.0)


def _smoothed(old: float | None, sample: float) -> float:
    """A moving mean in which one odd step (a page fault, a sleeping laptop) weighs little."""
    if old is None:
        return sample
    bounded = min(max(sample, old / OUTLIER), old * OUTLIER)
    return old + SMOOTHING * (bounded - old)
