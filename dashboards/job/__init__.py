"""The overview of a job, and of a subnet in it."""
