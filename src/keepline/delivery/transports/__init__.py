"""The built-in ways to a recipient, one file each."""
