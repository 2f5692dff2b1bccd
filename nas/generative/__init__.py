"""The generative searcher: its generator, what it believes, and its lessons."""
