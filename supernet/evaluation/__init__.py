"""How many subnets are scored at once."""
