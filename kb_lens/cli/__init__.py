"""The command ``kb-lens``: options in, the rooms below called, tables and lines out."""
