"""Supernets: one family a file, `build(space, *, seed) -> Supernet`."""
