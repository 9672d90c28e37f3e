"""The page /docs: the OpenAPI description as HTML with a form to try, without scripts and without any other host."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
th, td { border-bottom: 1px solid #bbb; padding: 0.2rem 1rem 0.2rem 0; text-align: left; vertical-align: top; }
code { background: #eee; color: #111; padding: 0 0.2rem; }
label { display: block; margin: 0.5rem 0; }
"""
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_DIGEST}'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_FORM = "multipart/form-data"


def docs_page(schema: dict[str, Any]) -> str:
    """The page of an OpenAPI schema. Its links are relative, so that it works behind a proxy with a path of its own."""
    info = schema["info"]
    return "\n".join(
        [
            f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(info["title"])}</title>',
            f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(info['title'])}</h1>",
            f"<p>{escape(info.get('description', ''))} Version {escape(info['version'])}. ",
            'For programs: <a href="openapi.json">openapi.json</a>.</p>',
            *_operations(schema["paths"]),
            *_schemas(schema["components"]["schemas"]),
            "</body>\n</html>\n",
        ]
    )


def _operations(paths: dict[str, Any]) -> Iterator[str]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
            yield f"<p>{_text(operation)}</p>"
            for kind, body in operation.get("requestBody", {}).get("content", {}).items():
                yield f"<h3>Request as {escape(kind)}</h3>"
                yield _fields(body["schema"]["properties"])
                if kind == _FORM:
                    yield _form(path.lstrip("/"), body["schema"]["properties"])
            rows = [(escape(status), _answer(one)) for status, one in operation["responses"].items()]
            yield "<h3>Answers</h3>"
            yield _table(("status", "meaning"), rows)


def _answer(response: dict[str, Any]) -> str:
    schemas = [body["schema"] for body in response.get("content", {}).values()]
    return " ".join([_text(response), *map(_type, schemas)])


def _schemas(schemas: dict[str, Any]) -> Iterator[str]:
    for name, schema in schemas.items():
        yield f'<h2 id="{escape(name)}">{escape(name)}</h2>\n<p>{_text(schema)}</p>'
        yield _fields(schema.get("properties", {}))


def _fields(properties: dict[str, Any]) -> str:
    rows = [(f"<code>{escape(k)}</code>", _type(one), _text(one)) for k, one in properties.items()]
    return _table(("field", "type", "meaning"), rows)


def _text(described: dict[str, Any]) -> str:
    """A description as HTML; what is between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(described.get("description", "")))


def _type(schema: dict[str, Any]) -> str:
    """The type of a field as HTML; a schema of its own is a link."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if "additionalProperties" in schema and schema.get("type") == "object":
        return f"by name: {_type(schema['additionalProperties'])}"
    limits = [f"{word} {schema[key]:g}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    kind = "file" if schema.get("format") == "binary" else schema.get("contentEncoding") or schema.get("type", "any")
    return " ".join([escape(kind), *limits])


def _form(action: str, properties: dict[str, Any]) -> str:
    """A form that sends a request; the browser shows the answer as JSON."""
    fields = [f"<label>{escape(name)} {_input(escape(name), one)}</label>" for name, one in properties.items()]
    return "\n".join(
        [f'<form action="{escape(action)}" method="post" enctype="{_FORM}">', *fields, "<button>Try</button>\n</form>"]
    )


def _input(name: str, schema: dict[str, Any]) -> str:
    if "enum" in schema:
        options = "".join(
            f"<option{' selected' if value == schema.get('default') else ''}>{escape(value)}</option>"
            for value in schema["enum"]
        )
        return f'<select name="{name}">{options}</select>'
    return f'<input name="{name}" type="{"file" if _type(schema) == "file" else "text"}">'


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f"<th>{title}</th>" for title in titles)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"
