"""The verbs of the worker, one module each. They know ports and domain, and nothing of what implements a port."""
