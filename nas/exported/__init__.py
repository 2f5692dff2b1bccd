"""Folders that are taken away: what all formats have in common, from the model card to the hashes."""
