"""From a dense network to a compressed one."""
