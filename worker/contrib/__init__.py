"""What makes the worker at home in a host's framework: one module or package for each."""
