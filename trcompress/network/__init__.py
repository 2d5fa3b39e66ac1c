"""A live network: built from a file, or by the user's own code."""
