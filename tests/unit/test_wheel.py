"""A wheel built from the tree works in an empty environment: with its weights, and without the tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Neither the tree nor the tests' offline switch may help.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "HF_", "TRANSFORMERS_"))}

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("wheel")]


def _run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from a copy of the tree; nothing is left behind in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "-q", "--no-input", "--disable-pip-version-check"]
    _run(*pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", ".", cwd=folder)
    (built,) = (folder / "dist").glob("headrace-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an environment of its own; its dependencies are those of the running one."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home / "env", with_pip=False, symlinks=os.name != "nt")
    scripts = home / "env" / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "-q", "--no-input", "--disable-pip-version-check"]
    _run(*pip, "--python", scripts / "python", "install", "--no-index", "--no-deps", wheel, cwd=home)
    own = _run(scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip()
    # A path file's own path files are not followed, so an editable headrace next to the dependencies stays unseen.
    borrowed = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (Path(own) / "borrowed.pth").write_text("\n".join(borrowed))
    return scripts


def test_the_wheel_has_every_file_of_the_package(wheel):
    package = ROOT / "src" / "headrace"
    wanted = {
        f"headrace/{file.relative_to(package).as_posix()}"
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wanted - names == set()
    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert "headrace/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_has_the_nano_model(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    nano = {name.rsplit("/", 1)[1] for name in names if name.startswith("headrace/weights/nano/")}
    assert {"config.json", "tokenizer.json"} <= nano
    assert any(name.endswith(".safetensors") for name in nano)


def test_the_installed_package_is_the_wheel(installed, tmp_path):
    place = _run(installed / "python", "-c", "import headrace; print(headrace.__file__)", cwd=tmp_path).strip()
    assert Path(place).is_relative_to(installed.parent)
    assert ROOT not in Path(place).parents


def test_it_says_its_version(installed, wheel, tmp_path):
    said = _run(installed / "python", "-m", "headrace", "--version", cwd=tmp_path)
    assert wheel.name.split("-")[1] in said


def test_it_answers_a_question(installed, tmp_path):
    said = _run(installed / "headrace", "ask", "world:7,seconds=8", "what digit is shown", cwd=tmp_path)
    assert said.strip()


def test_it_answers_in_json(installed, tmp_path):
    command = ("-m", "headrace", "ask", "world:7,seconds=8", "what digit is shown", "--json")
    said = _run(installed / "python", *command, cwd=tmp_path)
    objects = [json.loads(line) for line in said.splitlines()]
    assert objects
    assert all(isinstance(item, dict) for item in objects)
