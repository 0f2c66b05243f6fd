"""Renders the parts of the documentation that are never typed: tables of results, and the reference pages.

    python docs/render.py            write the tables into README.md and docs/*.md
    python docs/render.py --check    fail if a table differs from its data file

A table stands between ``<!-- result: NAME -->`` and ``<!-- end -->`` and is made from ``docs/results/NAME.json``.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RESULTS = DOCS / "results"
REFERENCE = DOCS / "reference"
BLOCK = re.compile(r"(<!-- result: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
KEYS = ("title", "command", "commit", "machine", "date", "columns", "rows")


def main() -> int:
    """Write or check all tables; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a table differs from its data")
    args = parser.parse_args()
    stale = [page for page in pages() if page.read_text() != rendered(page.read_text())]
    for page in stale:
        if not args.check:
            page.write_text(rendered(page.read_text()))
        outcome = "differs from its data: run python docs/render.py" if args.check else "written"
        print(f"{page.relative_to(ROOT)}: {outcome}")
    return int(bool(stale) and args.check)


def pages() -> Iterator[Path]:
    """Yield all pages that may have tables."""
    yield ROOT / "README.md"
    yield from sorted(p for p in DOCS.rglob("*.md") if REFERENCE not in p.parents)


def rendered(text: str) -> str:
    """Return a page with all tables made from their data."""
    return BLOCK.sub(lambda m: f"{m[1]}{table(read_result(m[2]))}{m[3]}", text)


def read_result(name: str) -> dict[str, Any]:
    """Read a data file.

    Raises:
        ValueError: a key is missing, or a row has another number of cells than there are columns.
    """
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    if missing := [key for key in KEYS if key not in result]:
        raise ValueError(f"docs/results/{name}.json: missing {', '.join(missing)}")
    if any(len(row) != len(result["columns"]) for row in result["rows"]):
        raise ValueError(f"docs/results/{name}.json: a row has not {len(result['columns'])} cells")
    return result


def table(result: dict[str, Any]) -> str:
    """Format a result as a Markdown table with its origin."""
    lines = [f"| {' | '.join(result['columns'])} |", f"|{'---|' * len(result['columns'])}"]
    lines += [f"| {' | '.join(_cell(value) for value in row)} |" for row in result["rows"]]
    origin = (
        f"*{result['title']}. `{result['command']}`, {result['machine']}, {result['date']}, commit {result['commit']}.*"
    )
    note = f"\n\n{result['note']}" if result.get("note") else ""
    return "\n" + "\n".join(lines) + f"\n\n{origin}{note}\n\n"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value).replace("|", "\\|")


# ---- reference pages


def write_reference() -> None:
    """Write docs/reference/{recipe,space,cli,http-api}.md."""
    REFERENCE.mkdir(exist_ok=True)
    for name, text in (
        ("recipe", recipe_page()),
        ("space", space_page()),
        ("cli", cli_page()),
        ("http-api", http_page()),
    ):
        (REFERENCE / f"{name}.md").write_text(text)


def recipe_page() -> str:
    """Every recipe key with type, default, range and description."""
    from s2v_ray.config import Recipe

    head = "# Recipe keys\n\nEvery key of a recipe. `--set a.b=c` overrides one; `s2v recipes NAME` prints all.\n"
    return head + "".join(_section(Recipe, ""))


def space_page() -> str:
    """Every key of a sweep's space."""
    from s2v_ray.tuning.space import Space

    head = (
        "# Space keys\n\nEvery key of the space of a sweep (`s2v tune --space FILE`). Examples are in `tune_spaces/`.\n"
    )
    return head + "".join(_section(Space, ""))


def _section(model: type[BaseModel], prefix: str) -> Iterator[str]:
    inner: list[tuple[str, type[BaseModel]]] = []
    rows = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            inner.append((f"{prefix}{name}", kind))
        else:
            rows.append(f"| `{prefix}{name}` | {_type(field)} | {_default(field)} | {_description(field)} |")
    yield f"\n## {prefix.rstrip('.') or 'Top level'}\n\n{inspect.cleandoc(model.__doc__ or '')}\n"
    if rows:
        yield "\n| key | type | default | description |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    for name, kind in inner:
        yield from _section(kind, f"{name}.")


def _type(field: FieldInfo) -> str:
    kind = field.annotation
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    text = re.sub(r"\b(typing|s2v_ray(\.\w+)+)\.", "", text).replace("Literal", "one of ")
    limits = [
        f"{sign} {getattr(m, name):g}" for m in field.metadata for name, sign in SIGNS.items() if hasattr(m, name)
    ]
    return f"`{text}`".replace("|", "\\|") + (f", {' and '.join(limits)}" if limits else "")


SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "min_length": "length ≥"}


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    value = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return f"`{value!r}`".replace("|", "\\|")


def _description(field: FieldInfo) -> str:
    return (field.description or "").replace("|", "\\|")


def cli_page() -> str:
    """Every command with its arguments and options."""
    import typer

    from s2v_ray.cli import app

    group: Any = typer.main.get_command(app)
    parts = [
        "# Commands\n\nExit status: 0 done, 1 error, 2 wrong usage, 130 interrupted. `S2V_DEBUG=1` shows tracebacks.\n"
    ]
    for name, command in group.commands.items():
        doc = inspect.cleandoc(command.help or "")
        parts.append(f"\n## s2v {name}\n\n{doc}\n\n| argument or option | default | description |\n|---|---|---|\n")
        for p in command.params:
            shown = (
                ", ".join(f"`{o}`" for o in p.opts) if p.opts[0].startswith("-") else f"`{p.metavar or p.name.upper()}`"
            )
            default = "required" if p.required else "" if p.default in (None, False, ()) else f"`{p.default}`"
            text = (getattr(p, "help", "") or "").replace("|", "\\|")
            parts.append(f"| {shown} | {default} | {text} |\n")
    return "".join(parts)


def http_page() -> str:
    """Every route of the endpoint, from its OpenAPI document."""
    document = openapi()
    parts = [f"# HTTP API\n\n{document['info']['description']}\n\nAn endpoint has it at `/openapi.json`.\n"]
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            parts.append(f"\n## {method.upper()} {path}\n\n{route.get('description') or route.get('summary', '')}\n")
            parts.append(_fields(document, route))
            rows = [f"| {status} | {r['description'].replace('|', '/')} |" for status, r in route["responses"].items()]
            parts.append("\n| status | meaning |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "".join(parts)


def _fields(document: dict[str, Any], route: dict[str, Any]) -> str:
    rows = [f"| `{p['name']}` | {p['in']} | {p.get('description', '')} |" for p in route.get("parameters", [])]
    for content in route.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        rows += [
            f"| `{name}` | body | {field.get('description', '')} |"
            for name, field in schema.get("properties", {}).items()
        ]
    return "\n| field | in | description |\n|---|---|---|\n" + "\n".join(rows) + "\n" if rows else ""


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document of an endpoint, without starting one."""
    from s2v_ray.serving.api import make_api
    from s2v_ray.serving.bundles import LocalBundles
    from s2v_ray.serving.context import ApiContext
    from s2v_ray.serving.service import Service
    from s2v_ray.serving.settings import ServeSettings

    settings = ServeSettings(bundle="bundle")
    return make_api(ApiContext(Service(settings, LocalBundles(settings)))).openapi()


if __name__ == "__main__":
    sys.exit(main())
