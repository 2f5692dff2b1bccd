"""The stages that train, and what they begin with."""
