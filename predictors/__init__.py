"""How fast a subnet will be: devices, measurement, and latency predictors; one file per predictor."""

NO_COMPONENTS = ("accuracy",)  # of quality: what is told of latency has nothing in common with it
