"""What the table of routes says of itself: an OpenAPI document, and a page with forms for people."""

import re
from collections.abc import Mapping
from typing import Any

from flask import request
from markupsafe import Markup, escape
from pydantic import BaseModel

from dashboards.controls import FORMS
from nas.cli.server.api.routes import ROUTES
from nas.cli.server.api.service import Route

ERRORS = {
    "400": "A wrong value, with a sentence.",
    "401": "No token, or a wrong one.",
    "403": "The token does not allow this.",
    "404": "There is no such thing.",
    "409": "Something is in the way.",
    "503": "The store cannot be read, or the server is busy.",
}


def openapi(root: str) -> dict[str, Any]:
    """The OpenAPI document. root: the path below which the server answers."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Elastiform",
            "version": "1",
            "description": "The JSON documents of `nas`, as its verbs print them with --json.",
        },
        "servers": [{"url": root or "/"}],
        "security": [{"token": []}, {"session": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "nas_session"},
            },
            "schemas": {
                "Error": {
                    "type": "object",
                    "properties": {"error": {"type": "string"}, "hint": {"type": "string"}},
                    "required": ["error", "hint"],
                }
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    document = f" As `{route.verb} --json` prints it." if route.verb else ""
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.says,
        "description": f"{'Needs the write token.' if route.writes else 'Reads.'}{document}",
        "parameters": [*_in_path(route), *_in_query(route)],
        "responses": {
            "200": {"description": route.says, "content": {route.gives: {}}},
            **{code: {"description": words, "content": error} for code, words in ERRORS.items()},
        },
    }
    if route.body is not None:
        schema = route.body.model_json_schema()
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _in_path(route: Route) -> list[dict[str, Any]]:
    words = re.findall(r"<(?:(\w+):)?(\w+)>", route.path)
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "integer" if kind == "int" else "string"},
        }
        for kind, name in words
    ]


def _in_query(route: Route) -> list[dict[str, Any]]:
    schema = route.query.model_json_schema()
    return [
        {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": of}
        for name, of in schema.get("properties", {}).items()
    ]


# -- the page --


def page(csrf: str | None) -> Markup:
    """The table for people; with what a session's changes are sent with, a form for each of them."""
    rows = Markup("").join(
        Markup("<tr><td>{}</td><td><code>{}</code></td><td>{}</td><td>{}</td></tr>").format(
            route.method,
            f"{request.script_root}{route.path.replace('<int:', '<')}",
            route.says,
            Markup("<code>{} --json</code>").format(route.verb) if route.verb else "",
        )
        for route in ROUTES
    )
    table = Markup(
        '<p>Described by <a href="{root}/api/openapi.json">openapi.json</a>; '
        '<a href="{root}/metrics">metrics</a>, <a href="{root}/healthz">health</a>.</p>'
        '<div class="scroll"><table><thead><tr><th></th><th>Address</th><th></th><th>As</th></tr></thead>'
        "<tbody>{rows}</tbody></table></div>"
    ).format(root=request.script_root, rows=rows)
    if csrf is None:
        return table + Markup(
            '<p>To change something here, <a href="{}/login?next=/api">sign in</a>.</p>'
        ).format(request.script_root)
    forms = Markup("").join(_form(route, csrf) for route in ROUTES if route.writes)
    return table + Markup("<h2>Change</h2>") + forms + _sign_out()


def _form(route: Route, csrf: str) -> Markup:
    assert route.body is not None, "it writes"
    word = re.search(r"<(?:\w+:)?(\w+)>", route.path)
    inputs = [_input(word[1], {"type": "string"}, needed=True)] if word else []
    schema = route.body.model_json_schema()
    inputs += [
        _input(name, of, needed=name in schema.get("required", ()))
        for name, of in schema.get("properties", {}).items()
    ]
    return Markup(
        '<form method="post" action="{root}{forms}{name}" id="{name}"><fieldset><legend>{says}</legend>'
        '<input type="hidden" name="csrf" value="{csrf}">{inputs}'
        '<button type="submit">{name}</button></fieldset></form>'
    ).format(
        root=request.script_root,
        forms=FORMS,
        name=route.name,
        says=route.says,
        csrf=csrf,
        inputs=Markup("").join(inputs),
    )


def _input(name: str, schema: Mapping[str, Any], *, needed: bool) -> Markup:
    kinds = {schema.get("type"), *(one.get("type") for one in schema.get("anyOf", ()))}
    required = Markup(" required") if needed else Markup("")
    if "boolean" in kinds:
        field = Markup('<input type="checkbox" name="{}" value="true">').format(name)
    elif name in ("file", "note") or "array" in kinds:
        rows = 12 if name == "file" else 3
        field = Markup('<textarea name="{}" rows="{}" cols="60"{}></textarea>').format(name, rows, required)
    else:
        kind = "number" if "integer" in kinds else "text"
        field = Markup('<input type="{}" name="{}"{}>').format(kind, name, required)
    lines = " (one a line)" if "array" in kinds else ""
    return Markup("<p><label>{}{} {}</label></p>").format(name, lines, field)


def _sign_out() -> Markup:
    return Markup(
        '<form method="post" action="{}/logout"><button type="submit">Sign out</button></form>'
    ).format(escape(request.script_root))


def from_form(body: type[BaseModel], fields: Mapping[str, str]) -> dict[str, Any]:
    """The body that a form stands for: what was left empty is not there, lists have a line for each entry."""
    values: dict[str, Any] = {}
    for name, schema in body.model_json_schema().get("properties", {}).items():
        kinds = {schema.get("type"), *(one.get("type") for one in schema.get("anyOf", ()))}
        text = fields.get(name, "")
        if "boolean" in kinds:
            values[name] = text == "true"
        elif "array" in kinds:
            values[name] = [line.strip() for line in text.splitlines() if line.strip()]
        elif "integer" in kinds and text:
            values[name] = int(text) if re.fullmatch(r"-?\d{1,9}", text, re.ASCII) else text
        elif text or name == "note":
            values[name] = text
    return values
