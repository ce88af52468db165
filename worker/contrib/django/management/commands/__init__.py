"""One command: all of our own command line."""
