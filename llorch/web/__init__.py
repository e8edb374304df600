"""The HTTP edge of both daemons: sockets, connections, limits, correlation ids and the shape of every answer."""
