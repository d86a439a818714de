"""Opening an instance and running the story through its parts."""
