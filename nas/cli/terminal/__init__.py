"""What moves and what is drawn in a terminal."""
