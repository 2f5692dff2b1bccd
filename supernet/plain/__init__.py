"""Networks as they are exported: they import torch and each other, and nothing else."""
