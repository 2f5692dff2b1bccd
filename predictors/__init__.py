"""How fast a subnet will be: devices, measurement, and latency predictors; one file per predictor."""
