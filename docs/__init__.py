"""The documentation, and the command that writes its tables."""
