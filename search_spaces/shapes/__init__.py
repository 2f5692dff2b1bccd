"""Networks as plain numbers: what they are made of, layer by layer."""
