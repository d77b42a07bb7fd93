"""Forward passes that compute no token twice. They only save time: each has a plain equivalent."""
