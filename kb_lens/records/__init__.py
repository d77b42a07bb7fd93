"""Read the files that kb_lens wrote: one reader for each format, each checked against a type."""
