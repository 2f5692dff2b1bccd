"""Latency predictors: one a file, `build(space, *, batch, element_bytes, **options) -> Predictor`."""
