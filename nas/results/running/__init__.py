"""Jobs that run now: how far they are, and how long they still take."""
