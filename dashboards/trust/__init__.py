"""The page that says how far a job's numbers can be trusted."""
