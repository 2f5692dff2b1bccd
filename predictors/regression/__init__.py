"""What latency predictors are made of: features of architectures, fits, intervals."""
