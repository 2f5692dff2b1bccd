"""The page on which one decides for a subnet: limits, the best within them, a short list."""
