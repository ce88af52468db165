from __future__ import annotations

import re
from pathlib import Path

#: Names of the hosts packages and images come from, written apart so that this file does not name them.
REGISTRIES = re.compile(
    "|".join(
        re.escape(f"{name}.{domain}")
        for name, domain in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("npmjs", "org"),
            ("npmjs", "com"),
            ("docker", "io"),
            ("hub.docker", "com"),
            ("ghcr", "io"),
            ("quay", "io"),
            ("gcr", "io"),
            ("anaconda", "org"),
            ("proxy.golang", "org"),
        )
    )
)

#: Folders that exist on one machine only. A path in a URL has a host before it, one of a container is not among these.
PRIVATE_PATHS = re.compile(r"(?<![\w.~>/-])/(?:home|root|tmp|Users|work|opt/pypi|opt/wheels)/[\w.]")

TEXT_LIMIT = 2_000_000


def lines_that_match(root, files, *patterns):
    for path in files:
        if path.stat().st_size > TEXT_LIMIT:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if any(pattern.search(line) for pattern in patterns):
                yield f"{path.relative_to(root)}:{number}: {line.strip()[:80]}"


def test_no_file_names_a_registry(root, project_files):
    """Where packages come from is the business of whoever installs; many companies have a mirror."""
    assert [] == list(lines_that_match(root, project_files, REGISTRIES))


def test_no_file_names_a_path_of_one_machine(root, project_files):
    """It would work there and nowhere else, and it tells strangers what is none of their business."""
    assert [] == list(lines_that_match(root, project_files, PRIVATE_PATHS))


def test_what_is_private_to_a_machine_would_be_seen(tmp_path):
    """A check that has gone blind passes on everything."""
    planted = tmp_path / "planted.txt"
    planted.write_text(
        f"index = https://py{'pi'}.org/simple\nstore = /{'home'}/someone/db\nurl = http://host/{'tmp'}/x\n"
    )

    seen = list(lines_that_match(Path(tmp_path), [planted], REGISTRIES, PRIVATE_PATHS))

    assert ["planted.txt:1", "planted.txt:2"] == [line.rsplit(": ", 1)[0] for line in seen]
