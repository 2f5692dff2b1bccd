"""Extracted folders on devices: the file as it stands, beside the front's latency of its subnet."""
