from __future__ import annotations

import re
import tomllib

PINNED = re.compile(r"^(?P<name>[a-z0-9.-]+)==[0-9][0-9a-z.]*(?: ; [a-z_]+ [<>=!]+ \"[0-9.]+\")?$")


def declared(root):
    """The names of the distributions pyproject.toml asks for, of the package and of its extras."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    return {re.split(r"[\[<>=!~ ]", requirement)[0] for requirement in wanted}


def constraint_lines(root):
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_constraints_are_exact_versions_and_nothing_else(root):
    """An index, an address or a hash in it would tie every installation to one place and one platform."""
    assert [] == [line for line in constraint_lines(root) if not PINNED.match(line)]


def test_every_dependency_is_pinned(root):
    """What is not pinned changes under the tests from one day to the next."""
    pinned = {PINNED.match(line)["name"] for line in constraint_lines(root)}

    assert set() == declared(root) - pinned


def test_every_dependency_says_why_it_is_there(root):
    """Each one is code that handles money and that somebody else may change."""
    page = (root / "docs" / "dependencies.md").read_text(encoding="utf-8")

    explained = set(re.findall(r"^\| `([a-z0-9.-]+)` \|", page, flags=re.MULTILINE))

    assert declared(root) == explained
