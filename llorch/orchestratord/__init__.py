"""orchestratord: the aiohttp shell around the pure brain."""
