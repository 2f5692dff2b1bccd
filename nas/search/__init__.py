"""The stage that searches: racing, finalists."""
