"""One HTML page that says what a folder of results holds."""
