"""The parts of training: settings, batches, losses, processes, saved state, and in `loop` the one loop."""
