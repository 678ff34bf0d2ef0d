"""The lock files: nothing but pinned and hashed packages, in step with pyproject.toml and with one another."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PIN = re.compile(
    r"^(?P<name>[a-z0-9_.-]+)(?:\[[^\]]+\])?==(?P<version>[^ ;]+)(?: ; [^\\]+)? \\\n(?P<hashes>(?:    --hash=.+\n)+)",
    re.MULTILINE,
)
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]

# file -> what it was resolved from
LOCKS = {
    "requirements.lock": [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)],
    "requirements-serve.lock": [*PROJECT["dependencies"], *EXTRAS["postgres"]],
    "requirements-train.lock": [
        *PROJECT["dependencies"],
        *(line for name in ("postgres", "train", "tune") for line in EXTRAS[name]),
    ],
    "requirements-build.lock": BUILD,
}


def text_of(lock: str) -> str:
    return (ROOT / lock).read_text(encoding="utf-8")


def pins(lock: str) -> dict[str, set[str]]:
    """Package -> its versions; more than one where they differ by platform."""
    found: dict[str, set[str]] = {}
    for match in PIN.finditer(text_of(lock)):
        found.setdefault(canonicalize_name(match["name"]), set()).add(match["version"])
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_only_pins_with_hashes_and_comments(lock: str) -> None:
    rest = PIN.sub("", text_of(lock))

    assert [line for line in rest.splitlines() if line.strip() and not line.lstrip().startswith("#")] == []
    assert all(len(digest) == 64 for digest in re.findall(r"--hash=sha256:([0-9a-f]+)", text_of(lock)))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_index(lock: str) -> None:
    assert re.findall(r"https?://|index-url|find-links", text_of(lock)) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_satisfies_every_dependency_it_was_resolved_from(lock: str) -> None:
    locked = pins(lock)
    wanted = [Requirement(line) for line in LOCKS[lock]]

    missing = [str(want) for want in wanted if canonicalize_name(want.name) not in locked]
    unsatisfied = [
        str(want)
        for want in wanted
        for version in locked.get(canonicalize_name(want.name), ())
        if version not in want.specifier
    ]

    assert (missing, unsatisfied) == ([], []), "run `make lock`"


@pytest.mark.parametrize("lock", [name for name in LOCKS if name != "requirements.lock"])
def test_an_image_runs_the_versions_that_the_tests_ran_with(lock: str) -> None:
    tested = pins("requirements.lock")

    assert {name: versions for name, versions in pins(lock).items() if versions != tested.get(name)} == {}


def test_the_image_of_worker_and_server_has_no_torch() -> None:
    assert {"torch", "onnx", "onnxscript"} & set(pins("requirements-serve.lock")) == set()
