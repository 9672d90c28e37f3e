"""The Python interface: a project whose methods are the commands."""
