"""The verbs about the queue: what puts jobs into it, and what takes them out."""
