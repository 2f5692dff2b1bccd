"""The page about how a job runs: its training, its log, its events, what it was asked and where it ran."""
