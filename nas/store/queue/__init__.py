"""The queue of submitted jobs: who is next, and a worker's claim to one."""
