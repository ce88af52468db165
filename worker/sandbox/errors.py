"""The one error that the sandbox raises at whoever drives it; what it answers as a provider is elsewhere."""


class SandboxError(ValueError):
    """The sandbox cannot do what it was told; the sentence names the thing and what would do."""
