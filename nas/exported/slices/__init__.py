"""Slices of pretrained models that were trained nested, as folders that stock transformers loads."""
