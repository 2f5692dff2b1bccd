"""The layers of any torch module, by tracing it without its weights and without computing anything."""
