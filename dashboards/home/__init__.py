"""The start page: all jobs, searched, filtered, grouped, and chosen to be compared."""
