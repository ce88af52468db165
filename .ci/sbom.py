"""Write the software bill of materials of an environment and of the Debian below it, as CycloneDX JSON.

    python .ci/sbom.py /opt/post-purchase/bin/python > sbom.cdx.json

The Python packages are found by cyclonedx-py; the interpreter and the packages of the system are added to them. What a
wheel has linked in, such as libcurl, is known by that wheel only.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL


def main() -> None:
    """Print the bill; one that breaks its own schema is an error."""
    bill = python_packages(sys.argv[1])
    bill["components"] += [interpreter(), *system_packages()]
    text = json.dumps(bill, indent=1)
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise SystemExit(f"the bill of materials is not CycloneDX 1.6: {fault}")
    print(text)


def python_packages(interpreter: str) -> dict[str, Any]:
    """Return the bill of everything that is installed for an interpreter."""
    command = ["cyclonedx-py", "environment", "--output-reproducible", "--spec-version", "1.6", interpreter]
    bill: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

    return bill


def interpreter() -> dict[str, str]:
    """Return the component that is Python itself: images build it from source, so no list of packages has it."""
    version = platform.python_version()

    return {"type": "platform", "bom-ref": f"cpython-{version}", "name": "cpython", "version": version}


def system_packages() -> Iterator[dict[str, str]]:
    """Give each package of the system as a component."""
    wanted = "${Package}\t${Version}\t${Architecture}\n"
    listed = subprocess.run(["dpkg-query", "--show", f"--showformat={wanted}"], check=True, stdout=subprocess.PIPE)
    for line in listed.stdout.decode().splitlines():
        name, version, architecture = line.split("\t")
        purl = PackageURL("deb", "debian", name, version, {"arch": architecture}).to_string()
        yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


if __name__ == "__main__":
    main()
