"""Workers: submitted jobs taken from the queue and run, each in a process group of its own."""
