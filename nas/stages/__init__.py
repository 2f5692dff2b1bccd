"""The stages of a job, one file each; every stage is skipped when the store has its result already."""
