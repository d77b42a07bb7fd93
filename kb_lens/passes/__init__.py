"""Forward passes that compute no token twice. Only speed: every one has a plain twin."""
