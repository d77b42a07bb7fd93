"""What kb_lens wrote, read back: one reader a format, each checked against a type."""
