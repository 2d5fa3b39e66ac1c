"""What is compressed, described: layers, weights, plans, and the header of an artifact."""
