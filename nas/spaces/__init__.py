"""The search space of a job: its family, options and images, and the weights that it begins with."""
