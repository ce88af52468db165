from __future__ import annotations

import io
import re
import tokenize
import tomllib

import pytest

#: Comments that switch a check off, each with what must follow: the rule's name, then the reason.
EXEMPTION = re.compile(
    r"#\s*(?:noqa|type:\s*ignore|pragma:\s*no\s*(?:cover|branch)|pyright:\s*ignore|fmt:\s*(?:off|skip))\b"
)
REASON = r"\W+\w+\W+\w+"
REASONED = (
    re.compile(r"#\s*noqa:\s*[A-Z]+[0-9]+(?:,\s*[A-Z]+[0-9]+)*\b" + REASON),
    re.compile(r"#\s*type:\s*ignore\[[a-z-]+(?:,\s*[a-z-]+)*\]\s+#" + REASON),
    re.compile(r"#\s*(?:pragma:\s*no\s*(?:cover|branch)|fmt:\s*(?:off|skip))\b" + REASON),
)

#: In these parts of pyproject.toml every entry is an exemption.
EXEMPTING = re.compile(r"^(?:ignore|\"[^\"]+\") = \[$")


def unreasoned_comments(source):
    """The lines of a Python source whose exemption does not say why."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        exempting = token.type == tokenize.COMMENT and EXEMPTION.search(token.string)
        if exempting and not any(reason.search(token.string) for reason in REASONED):
            yield token.start[0]


def unreasoned_settings(source):
    """The lines of pyproject.toml that switch a rule off without saying why."""
    section, inside = "", False
    for number, line in enumerate(source.splitlines(), start=1):
        if line.startswith("["):
            section, inside = line.strip("[]"), False
        elif line.startswith("]"):
            inside = False
        elif section.startswith("tool.ruff.lint") and EXEMPTING.match(line):
            inside = True
        elif inside and not re.search(r"\",\s+# \S+", line):
            yield number


def test_every_exemption_in_the_code_has_a_reason(root, project_files):
    """Without its reason nobody can tell an exemption that is still needed from one that was convenient once."""
    found = [
        f"{path.relative_to(root)}:{line}"
        for path in project_files
        if path.suffix == ".py"
        for line in unreasoned_comments(path.read_text(encoding="utf-8"))
    ]

    assert [] == found


def test_every_rule_that_is_switched_off_has_a_reason(root):
    """The linter selects every rule there is, so each line of the list is a decision of this project."""
    source = (root / "pyproject.toml").read_text(encoding="utf-8")

    assert ["ALL"] == tomllib.loads(source)["tool"]["ruff"]["lint"]["select"]
    assert [] == list(unreasoned_settings(source))


@pytest.mark.parametrize(
    "comment",
    [
        "# noqa",
        "# noqa: S311",
        "# type: ignore",
        "# type: ignore[misc]",
        "# type: ignore  # the library has no types",
        "# pragma: no cover",
    ],
)
def test_a_bare_exemption_is_seen(comment):
    """A check that has gone blind passes on everything."""
    assert [1] == list(unreasoned_comments(f"x = 1  {comment}\n"))


@pytest.mark.parametrize(
    "comment",
    [
        "# noqa: S311 - jitter is no secret",
        "# type: ignore[misc]  # Celery has no types",
        "# pragma: no cover - Windows only",
    ],
)
def test_a_reasoned_exemption_is_allowed(comment):
    """The check asks for a reason, not for obedience."""
    assert [] == list(unreasoned_comments(f"x = 1  {comment}\n"))


def test_a_rule_switched_off_without_a_reason_is_seen():
    """The same, for the list in pyproject.toml."""
    source = '[tool.ruff.lint]\nignore = [\n    "D105",\n    "D107",  # the class says it\n]\n'

    assert [3] == list(unreasoned_settings(source))
