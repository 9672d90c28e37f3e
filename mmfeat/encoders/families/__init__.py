"""Encoder kinds, and the families of networks that they build."""
