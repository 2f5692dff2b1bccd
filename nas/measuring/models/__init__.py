"""Models of no space on registered devices: named, measured, and predicted from those that were measured."""
