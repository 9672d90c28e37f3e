"""What a user installs, and what each part may import."""

from __future__ import annotations

import ast
import configparser
import importlib
import importlib.util
import re
import resource
import subprocess
import sys
from abc import ABCMeta
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.command_line import COMMAND

# A package imports itself and what stands before it here.
ORDER = (
    "common",
    "config",
    "metrics",
    "data",
    "store",
    "encoders",
    "extraction",
    "heads",
    "runs",
    "selftraining",
    "audit",
    "estimator",
    "predictor",
    "serving",
    "report",
    "project",
    "inference",
    "training",
    "workflows",
    "api",
)
ARRAYS_ONLY = {
    "common",
    "config",
    "metrics",
    "store",
    "heads",
    "runs",
    "selftraining",
    "audit",
    "estimator",
}  # right of the store


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_every_package_is_listed():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    folders = {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in (ROOT / "mmfeat").rglob("__init__.py")}
    assert listed == folders | {"mmfeat.cli"}


def test_every_file_of_a_package_is_installed():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    patterns = {
        ROOT / package.strip().replace(".", "/"): globs.replace(",", " ").split()
        for package, globs in config["options.package_data"].items()
    }
    installed = {path for folder, globs in patterns.items() for one in globs for path in folder.glob(one)}
    files = {p for p in (ROOT / "mmfeat").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert {p.relative_to(ROOT) for p in files - installed} == set()


def test_pyproject_is_the_build_system_alone():
    import tomllib

    assert set(tomllib.loads((ROOT / "pyproject.toml").read_text())) == {"build-system"}


def test_help_imports_no_torch_and_is_quick():
    code = "import sys; import mmfeat.cli; heavy = {'torch', 'numpy', 'timm', 'transformers', 'h5py'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([COMMAND, "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)  # CPU time: others use the machine too
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.4


def test_import_mmfeat_is_light():
    code = "import sys, mmfeat; sys.exit(len({'torch', 'numpy', 'click'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("package", ["mmfeat.data", "mmfeat.store"])
def test_data_and_store_import_no_torch(package):
    code = f"import sys, pkgutil, importlib, {package} as top\n"
    code += "for m in pkgutil.walk_packages(top.__path__, top.__name__ + '.'): importlib.import_module(m.name)\n"
    code += "sys.exit(int('torch' in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)


MODULES = sorted((ROOT / "mmfeat").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path):
    package = path.relative_to(ROOT / "mmfeat").parts[0]
    if package == "__init__.py":
        return
    found = imports(path)
    packages = {m.group(1) for name in found if (m := re.match(r"mmfeat\.(\w+)", name))}
    above = {other for other in packages if ORDER.index(other) > ORDER.index(package)}
    assert not above, f"{package} may not import {above}"
    libraries = {name.split(".")[0] for name in found}
    if package in ARRAYS_ONLY:
        assert not libraries & {"timm", "transformers", "PIL"}
    if package == "workflows" and path.name != "__init__.py":
        assert not [name for name in found if name.startswith("mmfeat.workflows")], "a command imports no other command"
    if package != "serving" and path.name != "serve.py":
        assert not libraries & {"fastapi", "starlette", "uvicorn", "pydantic"}
    if path.name != "plots.py":
        assert "matplotlib" not in libraries


def test_no_two_modules_share_a_name():
    names = [path.stem for path in MODULES if path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))


def test_the_top_has_packages_only():
    assert [path.name for path in (ROOT / "mmfeat").glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_module_says_what_it_is_for(path):
    text = path.read_text(encoding="utf-8")
    if text.strip():
        assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 400


SOURCES = [*MODULES, *sorted((ROOT / "cli").glob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_functions_fit_a_screen_and_nothing_is_formatted_by_hand(path):
    text = path.read_text(encoding="utf-8")
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not [node.name for node in functions if node.end_lineno - node.lineno >= 60]
    assert not re.search(r"#\s*fmt:", text)


def test_abstract_methods_are_those_of_abstract_classes():
    """Elsewhere Python ignores `@abstractmethod`: the class could be made without the method."""
    wrong = []
    for module in (
        f"mmfeat.{p.relative_to(ROOT / 'mmfeat').with_suffix('').as_posix().replace('/', '.')}" for p in MODULES
    ):
        found = vars(importlib.import_module(module.removesuffix(".__init__"))).values()
        for cls in (one for one in found if isinstance(one, type) and one.__module__ == module):
            marked = [name for name, one in vars(cls).items() if getattr(one, "__isabstractmethod__", False)]
            wrong += [f"{module}.{cls.__name__}.{name}" for name in marked if not isinstance(cls, ABCMeta)]
    assert not wrong


def test_nothing_is_unpickled():
    for path in (ROOT / "mmfeat").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "pickle" not in {name.split(".")[0] for name in imports(path)}
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call
        assert "allow_pickle=True" not in text


@pytest.fixture(scope="module")
def reference():
    """The module that puts the tables of options and settings into the site."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "hooks" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_is_documented(reference):
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    commands = dict(reference.commands())
    assert [match[1] for match in reference.OPTIONS.finditer(text)] == re.findall(r"^## mmfeat (.+)$", text, re.M)
    assert set(re.findall(r"^## mmfeat (.+)$", text, re.M)) == set(commands)
    for name, command in commands.items():
        table = reference.options_table(name)
        for parameter in command.params:
            for option in parameter.opts:
                assert f"`{option}`" in table or not option.startswith("--"), (name, option)


def test_every_setting_is_documented(reference):
    from mmfeat.config.schema import Config

    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    page = reference.with_tables(text)
    assert "<!-- settings" not in page
    for key, _ in Config().dotted():
        assert f"| `{key.rpartition('.')[2]}` |" in page, key


@pytest.mark.parametrize(("row", "other"), [("| `rounds` |", "| `circles` |"), ("| `yes` |", "| `no` |")])
def test_a_setting_that_the_page_lacks_fails_the_site(reference, row, other):
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"\[selftrain\]: these settings"):
        reference.with_tables(text.replace(row, other))


def test_the_site_shows_defaults_and_bounds(reference):
    page = reference.with_tables((ROOT / "docs" / "configuration.md").read_text(encoding="utf-8"))
    assert "| `val` | 0.1 | 0 to 0.9 |" in page
    assert "| `lr` | 0.0005 (mlp, crossattn, gated, weighted, labelquery)" not in page
    assert "| `lr` | 0.0005; 0.001 (linear, concat) | 0 to 10 |" in page
    assert re.search(r"\| `batch_size` \| 64 \| 64 \| 60 \| 256 \|", page)


def test_the_version_is_the_same_everywhere():
    from mmfeat import __version__

    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation
    assert f"\n## [{__version__}]\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_container_copies_what_a_build_needs():
    copied = set(re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M))
    names = {name for line in copied for name in line.split()}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert names == kept
    assert all((ROOT / name).exists() for name in names)
    assert names >= {"cli", "mmfeat", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"}


def test_no_test_file_imports_another():
    for path in (ROOT / "tests").rglob("*.py"):
        found = re.findall(
            r"^\s*(?:from|import) ((?:\S+\.)?(?:conftest|test_\w+))\b", path.read_text(encoding="utf-8"), re.M
        )
        assert not found, f"{path} imports {found}: what several test files share is in tests/helpers/ or conftest.py"


def test_the_folders_of_the_tests_are_those_of_the_packages():
    """Beside them: journeys across packages, what tests share, and what older versions wrote."""
    packages = {path.parent.relative_to(ROOT / "mmfeat").as_posix() for path in (ROOT / "mmfeat").rglob("__init__.py")}
    tests = ROOT / "tests"
    folders = {path.parent.relative_to(tests).as_posix() for path in tests.rglob("*.py")}
    assert folders - packages == {"cli", "journeys", "helpers", "fixtures", "plugin_package"}
