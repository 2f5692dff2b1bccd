"""Search spaces: one family a file, `build(**options) -> SearchSpace`."""
