"""What must hold of every row of a store, at every moment."""
