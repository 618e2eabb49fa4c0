"""edit-rrm: reasoning reward models for instruction-based image editing."""

__version__ = "0.1.0"
