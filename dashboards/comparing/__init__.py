"""The page that shows the fronts of several jobs on the same two axes."""
