"""The artifact folder of a store: whose it is, and what lies in it."""
