"""The database below the store: engine, transactions, schema, patience."""
