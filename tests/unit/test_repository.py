"""Rules of the repository that no linter knows."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from api.cli import COMMANDS
from ml_core.data_processor.features import FeaturePlan
from ml_core.spec import load
from streams.settings import WorkerSettings
from streams.worker import Worker

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "streams", "model_ops_manager", "data_io", "ml_core")
HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "mlflow",
    "faust",
    "mode",
    "aiokafka",
    "fastapi",
    "sqlalchemy",
    "pandas",
    "numba",
)

# written so that this file does not contain what it looks for
REGISTRIES = [
    ".".join(words)
    for words in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("repo1", "maven"),
        ("repo", "maven"),
        ("download", "pytorch"),
    )
]
HOME_PATH = re.compile(r"(?<![\w.}~-])/(?:home|root|work|Users)/")


def listed(*arguments: str) -> list[Path]:
    """Files that git knows or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", *arguments]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    return sorted({ROOT / name for name in names if name and (ROOT / name).is_file()})


def texts() -> dict[Path, str]:
    found = {}
    for path in listed():
        try:
            found[path.relative_to(ROOT)] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # recorded ticks
    return found


def modules_after(*imported: str) -> set[str]:
    """Top-level modules present in a fresh interpreter that has imported ``imported``."""
    code = f"import sys, {', '.join(imported)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_no_file_names_the_host_of_a_package_registry() -> None:
    assert [str(path) for path, text in texts().items() for host in REGISTRIES if host in text] == []


def test_no_file_holds_a_path_of_somebodys_machine() -> None:
    assert [str(path) for path, text in texts().items() if HOME_PATH.search(text)] == []


def test_every_package_says_in_its_docstring_what_it_is() -> None:
    folders = {path.parent for path in listed("*.py") if path.relative_to(ROOT).parts[0] in PACKAGES}
    silent = [
        str(folder.relative_to(ROOT))
        for folder in sorted(folders)
        if not (folder / "__init__.py").is_file()
        or not ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    ]

    assert silent == []


def test_no_module_is_longer_than_500_lines() -> None:
    long = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in listed("*.py")}

    assert {path: lines for path, lines in long.items() if lines > 500} == {}


def test_importing_the_packages_brings_nothing_heavy() -> None:
    inits = [
        path.parent.relative_to(ROOT) for path in listed("*__init__.py") if path.relative_to(ROOT).parts[0] in PACKAGES
    ]

    assert modules_after(*(".".join(folder.parts) for folder in inits)) & set(HEAVY) == set()


@pytest.mark.parametrize("module", ["streams.worker", "api.server", "model_ops_manager.jobs.runner"])
def test_a_process_that_does_not_train_is_free_of_torch(module: str) -> None:
    assert modules_after(module) & {"torch", "onnx", "onnxscript"} == set()


def test_the_server_is_free_of_faust() -> None:
    assert modules_after("api.server") & {"faust", "mode"} == set()


@pytest.mark.parametrize("path", listed("*.md"), ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_of_a_document_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", path.read_text(encoding="utf-8"))

    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", listed("*.md"), ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_named_in_a_document_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`tickwise ([a-z]+)", text))
    named.update(
        noun for block in blocks for noun in re.findall(r"^(?:\.venv/bin/)?tickwise ([a-z]+)", block, re.MULTILINE)
    )

    assert named <= set(COMMANDS)


def test_the_pipeline_file_of_the_readme_is_one(tmp_path: Path) -> None:
    blocks = re.findall(
        r"^```toml\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "btc.toml").write_text("\n".join(block for block in blocks if "name = " in block), encoding="utf-8")

    pipeline = load(tmp_path / "btc.toml")

    assert pipeline.source.map is not None
    assert FeaturePlan.from_spec(pipeline).names == ("return:1s", "return:10s", "ewma_vol:60s")


def test_the_worker_of_the_readme_takes_its_pipeline_with_what_lies_beside_it(tmp_path: Path, monkeypatch) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines")
    [written] = re.findall(r"^```toml\n(# pipelines/btc\.toml\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "pipelines" / "btc.toml").write_text(written, encoding="utf-8")
    [place] = re.findall(r"^tickwise worker --pipelines (\S+)", text, re.MULTILINE)
    monkeypatch.chdir(tmp_path)

    assert Worker(WorkerSettings(pipelines=place)).topic == "md.trades"


def test_make_demo_prints_nothing_but_what_the_demo_prints() -> None:
    run = subprocess.run(
        ["make", "-C", str(ROOT), "--dry-run", "--silent", "demo"],
        env={"PATH": os.environ["PATH"]},  # without what `make test` was given
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )

    assert run.stdout.splitlines()[-1] == "exec .venv/bin/tickwise demo "
