"""How searchers propose: distinct, within the limits, the same after an interruption."""
