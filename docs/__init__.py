"""The documentation: pages as they are written, and in `reference` what makes pages from the code."""
