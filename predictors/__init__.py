"""How fast a subnet will be, and how good: devices, measurement, predictors of latency and of quality."""
