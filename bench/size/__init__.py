"""Speed at size: what state resolution and state changes cost in rooms of a thousand to 100,000 entries."""
