"""The docs are held by tests: made from the code where they can be, checked against it where not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from profilegrid.v1 import admin_pb2, catalog_pb2, events_pb2, profiles_pb2, segments_pb2, shard_pb2

from actors.services.errors import STATUS, status_of
from grid import errors
from grid.catalog import load_catalog
from grid.kernels import cache_folder

ROOT = Path(__file__).parents[2]


def test_the_references_made_from_the_code_are_current() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs/make_reference.py"), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_error_has_a_status() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GridError)}
    assert kinds <= set(STATUS)
    assert status_of(errors.Overloaded("the inbox", 1, 2, 250)).details[1].type_url.endswith("RetryInfo")


def test_links_of_the_docs_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*/catalog.yaml")), ids=lambda path: path.parent.name)
def test_the_catalogs_of_the_examples_hold(path: Path) -> None:
    assert load_catalog(path.read_text(encoding="utf-8")).features


def test_the_catalog_in_the_docs_holds() -> None:
    source = re.search(r"```yaml\n(.*?)```", (ROOT / "docs/catalog.md").read_text(encoding="utf-8"), re.DOTALL)
    assert source is not None
    assert load_catalog(yaml.safe_load(source[1])).features


def test_every_module_says_what_it_owns() -> None:
    for folder in ("grid", "actors", "client/profilegrid", "client/profilegrid_rules"):
        for path in (ROOT / folder).rglob("*.py"):
            if "v1" not in path.parts:
                assert path.read_text(encoding="utf-8").lstrip().startswith('"""'), path


def test_the_wire_keeps_bufs_standard_rules() -> None:
    """Package by folder, services end in Service, each call has its own Request and Response, enums are prefixed and start at UNSPECIFIED."""
    seen: set[str] = set()
    for module in (admin_pb2, catalog_pb2, events_pb2, profiles_pb2, segments_pb2, shard_pb2):
        file = module.DESCRIPTOR
        assert (file.package, str(Path(file.name).parent)) == ("profilegrid.v1", "profilegrid/v1")
        for service in file.services_by_name.values():
            assert service.name.endswith("Service")
            for method in service.methods:
                names = {method.input_type.name, method.output_type.name}
                assert names == {f"{method.name}Request", f"{method.name}Response"}, method.full_name
                assert not names & seen
                seen |= names
        for enum in file.enum_types_by_name.values():
            prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper()
            assert all(value.name.startswith(f"{prefix}_") for value in enum.values)
            assert enum.values_by_number[0].name == f"{prefix}_UNSPECIFIED"


def test_compiled_kernels_are_kept_by_a_digest_of_their_sources() -> None:
    assert re.fullmatch(r"kernels-[0-9a-f]{16}", cache_folder().name)


def test_no_file_and_no_function_grows_past_its_limit() -> None:
    import ast

    for folder in ("grid", "actors", "client/profilegrid", "client/profilegrid_rules", "loadtests"):
        for path in (ROOT / folder).rglob("*.py"):
            if "v1" in path.parts:
                continue
            text = path.read_text(encoding="utf-8")
            assert text.count("\n") <= 700, f"{path} has {text.count(chr(10))} lines"
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or 0) - node.lineno + 1
                    assert lines <= 70, f"{path}: {node.name} has {lines} lines"
