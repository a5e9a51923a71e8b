"""Random histories on one server, and what clients that follow them must hold at the end."""
