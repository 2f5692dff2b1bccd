"""Texts: which documents there are, their tokens, and the blocks that networks see."""
