"""Decoders: how messages become values of channels, one format a file."""
