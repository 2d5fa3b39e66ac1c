"""Ways out: compressed models as plain modules of torch.nn."""

from trcompress.deploy.to_plain import to_plain

__all__ = ["to_plain"]
