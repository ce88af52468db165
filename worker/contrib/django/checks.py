"""What `manage.py check` says of us."""


def register() -> None:
    """Register the checks."""
