"""The built-in file formats, one file each."""
