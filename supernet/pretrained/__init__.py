"""Weights to begin with: of timm's models, and of folders that `nas extract` wrote."""
