"""From a table to batches: read, guess the schema, check, fit a processor, load samples."""
