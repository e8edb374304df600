"""Compact JSON from an encoder that is made once: the json module makes one a call, which costs more than a record."""

from __future__ import annotations

import json
from collections.abc import Callable
from json import encoder as made_by

Encode = Callable[[object], str]


def prepared(*, allow_nan: bool) -> Encode:
    """An encoder of plain values without cycles, as `json.dumps` with no spaces and no ASCII escapes.

    It raises TypeError for what is not plain, and ValueError for NaN and infinities unless they are allowed.
    """
    slow = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=allow_nan, separators=(",", ":"))
    make = getattr(made_by, "c_make_encoder", None)  # an accelerator that a Python may lack
    if make is None:
        return slow.encode
    pieces = make(None, slow.default, made_by.encode_basestring, None, ":", ",", False, False, allow_nan)
    return lambda value: "".join(pieces(value, 0))
