"""The command ``kb-lens``: reads options, calls the library, prints tables and lines."""
