"""The torch graph: a runner for every processor that torch knows, and the oracle of the native one.

The only importer of torch. Importing this package takes about a second: do so where a model is about to be loaded.
"""

from __future__ import annotations

import warnings

warnings.filterwarnings("ignore", message="Failed to initialize NumPy")  # numpy is left out of the frozen file

from llorch.model.graph.runner import Runner, load  # noqa: E402  (the filter must come before torch)

__all__ = ["Runner", "load"]
