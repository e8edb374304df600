"""llorch: one file that turns your machines into an LLM inference cluster."""

__version__ = "0.1.0"
PROTOCOL = 1

_SDK = {"Client", "AsyncClient", "InferenceRequest", "InferenceEvent", "Started", "Token", "End"}


def __getattr__(name: str) -> object:
    """Load the SDK names on first use, so that a CLI start never pays for them."""
    if name in _SDK:
        from llorch import client

        return getattr(client, name)
    raise AttributeError(f"module 'llorch' has no attribute {name!r}")
