"""Query modules that come with keepline, one file each."""
