"""The verbs about folders with a subnet, one a file: written, checked, asked what images show."""
