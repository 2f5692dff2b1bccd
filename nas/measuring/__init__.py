"""The stages that measure on devices of this host and of others."""
