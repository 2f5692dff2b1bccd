"""What a store holds: its health, its supernets, and what is removed from it."""
