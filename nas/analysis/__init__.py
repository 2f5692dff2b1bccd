"""What finished jobs say when they are asked: which front is better, whether a limit is met, why a subnet."""
