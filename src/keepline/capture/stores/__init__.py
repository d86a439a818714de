"""Capture stores: where messages are kept before they are archived, one kind a file."""
