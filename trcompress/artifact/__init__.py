"""The compressed model as a file: written, read, put back into a model, reported on."""
