"""The API: a table of addresses, what stands behind them, and what is said of it."""
