"""Where the data folders of the package are: the settings profiles and the migrations.

Decides between the two homes they can have: inside the package, as an installed wheel carries them, or beside
it, as in a checkout. Leaves to `config` and `store` what the files in them mean.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from .domain.errors import PostPurchaseError


class ResourcesMissing(PostPurchaseError):
    """A data folder of the post-purchase worker is not where the package looks for it."""

    def __init__(self, name: str, searched: tuple[Path, ...]) -> None:
        places = " and ".join(str(place) for place in searched)
        super().__init__(
            f"{name}, searched at {places}. Install the wheel again (`pip install --force-reinstall "
            "post-purchase-worker`), or, in a checkout, install it in place (`pip install --editable .`)"
        )
        self.name = name
        self.searched = searched


def settings_dir() -> Path:
    """The folder of the settings profiles."""
    return _find("settings", witness="default.toml")


def migrations_dir() -> Path:
    """The folder of the Alembic environment and its versions."""
    return _find("migrations", witness="env.py")


def _find(name: str, *, witness: str) -> Path:
    package = Path(str(files(__package__)))
    installed, checkout = package / f"_{name}", package.parent / name
    if (installed / witness).is_file():
        return installed
    # Beside an installed package, a folder of this name belongs to someone else; a checkout has its pyproject there.
    if (package.parent / "pyproject.toml").is_file() and (checkout / witness).is_file():
        return checkout
    raise ResourcesMissing(name, (installed, checkout))
