"""Tags for pictures that come with words."""

__version__ = "0.1.0"
