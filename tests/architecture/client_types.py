"""Generated sources of the clients: types from the OpenAPI document, and the synchronous client from the other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from datamodel_code_generator import GenerateConfig, InputFileType, PythonVersion, generate
from datamodel_code_generator.enums import DataModelType, OpenAPIScope
from datamodel_code_generator.format import Formatter
from datamodel_code_generator.parser import LiteralType

from app.main import create_app
from app.settings import Settings

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / "frontrunner" / "types.py"
TYPESCRIPT = ROOT / "clients" / "typescript" / "src" / "schema.ts"
SYNC = ROOT / "frontrunner" / "sync.py"
ASYNC = ROOT / "frontrunner" / "aio.py"
HEAD = '"""Types of requests and responses, generated from the OpenAPI document (`make docs`)."""'


_SYNC_HEAD = '"""The client for threads, generated from `frontrunner/aio.py` (`make docs`)."""'
_WORDS = (
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]"),
    (r"\bAsync(Client|Generator)\b", r"\1"),
    (r"\b(__)?a(enter|exit|close|closing|read|iter_bytes)(__)?\b", r"\1\2\3"),
    (r"\basync_(sleep|shield)\b", r"\1"),
)
"""Patterns of asynchronous words, and what they are in threads."""


def document() -> dict[str, Any]:
    """The OpenAPI document of a service with default settings."""
    with tempfile.TemporaryDirectory() as folder:
        return create_app(Settings(data_dir=Path(folder))).openapi()


def python_types(api: dict[str, Any]) -> str:
    """A module with a TypedDict for each schema of a document."""
    config = GenerateConfig(
        input_file_type=InputFileType.OpenAPI,
        openapi_scopes=[OpenAPIScope.Schemas],
        output_model_type=DataModelType.TypingTypedDict,
        target_python_version=PythonVersion.PY_311,
        enum_field_as_literal=LiteralType.All,
        use_schema_description=True,
        use_field_description=True,
        use_standard_collections=True,
        use_union_operator=True,
        disable_timestamp=True,
        custom_file_header=HEAD,
        formatters=[Formatter.BUILTIN],
    )
    text = generate(json.dumps(_without(_native(api), {"additionalProperties"})), config=config)
    assert isinstance(text, str)
    return _formatted(text)


def typescript_types(api: dict[str, Any]) -> str | None:
    """The types of the TypeScript client; None without its packages."""
    tool = TYPESCRIPT.parents[1] / "node_modules" / ".bin" / "openapi-typescript"
    if not tool.exists() or shutil.which("node") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "api.json", Path(folder) / "schema.ts"
        source.write_text(json.dumps(_without(_native(api), {"example", "examples"})), "utf-8")
        subprocess.run(
            [tool, source, "--output", made, "--default-non-nullable=false"], capture_output=True, check=True
        )
        return made.read_text("utf-8")


def sync_client() -> str:
    """The source of the synchronous client."""
    text = re.sub(r'^""".*?"""', lambda _: _SYNC_HEAD, ASYNC.read_text("utf-8"), count=1, flags=re.DOTALL)
    for pattern, word in _WORDS:
        text = re.sub(pattern, word, text)
    return _formatted(text)


def _native(api: dict[str, Any]) -> dict[str, Any]:
    """A document with the routes under /v1, and the schemas that these need."""
    paths = {path: methods for path, methods in api["paths"].items() if path.startswith("/v1/")}
    schemas, needed, found = api["components"]["schemas"], set[str](), _references(paths)
    while found - needed:
        needed |= found
        found = _references([schemas[name] for name in needed])
    kept = {name: schema for name, schema in schemas.items() if name in needed}
    return {**api, "paths": paths, "components": {"schemas": kept}}


def _references(part: Any) -> set[str]:
    return set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(part)))


def _without(part: Any, names: set[str]) -> Any:
    """A part of a document without these members.

    A TypedDict of Python 3.11 cannot express `additionalProperties`; examples are long.
    """
    if isinstance(part, dict):
        return {k: _without(v, names) for k, v in part.items() if k not in names}
    return [_without(one, names) for one in part] if isinstance(part, list) else part


def _formatted(text: str) -> str:
    """Source text as `make fix` formats it."""
    ruff = Path(sys.executable).parent / "ruff"
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        name = ["--stdin-filename", str(PYTHON), "-"]
        text = subprocess.run([ruff, *command, *name], input=text, capture_output=True, text=True, check=True).stdout
    return text


def main() -> None:
    """Write the generated sources."""
    api = document()
    PYTHON.write_text(python_types(api), "utf-8")
    typescript = typescript_types(api)
    if typescript is not None:
        TYPESCRIPT.write_text(typescript, "utf-8")
    SYNC.write_text(sync_client(), "utf-8")


if __name__ == "__main__":
    main()
