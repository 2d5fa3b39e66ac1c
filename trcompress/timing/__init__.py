"""A compressed network and its dense original, timed beside each other."""
