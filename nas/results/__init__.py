"""What jobs have found: fronts, subnets taken out, frames for figures."""
