"""What the fields of a job file mean, for people and for editors."""
