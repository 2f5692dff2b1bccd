"""The verbs that ask finished jobs, each in a file of its name."""
