"""Folders of images: which files count, what is wrong with them, their pixels and digest."""
