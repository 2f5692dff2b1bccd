"""What the dashboard's server refuses: requests of other hosts (403), and those that no page of ours sends
(400 or 413), which cost nothing; and what it forbids pages of ours to load.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dash import Dash
from flask import Flask, Response, abort, request

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# A page elsewhere whose name is rebound to 127.0.0.1 still sends its own name.
OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.ASCII | re.IGNORECASE)
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
LARGEST_REQUEST = 256 * 1024  # bytes; a page sends some hundred
CALLBACKS = "/_dash-update-component"
LONGEST_TEXT = 4_096
LARGEST_ID = 2**63 - 1
MOST_CHANGES = 100  # of a figure's layout at once


def is_own_host(host: str) -> bool:
    """Whether a Host header is one of this machine's own loop."""
    return OWN_HOST.fullmatch(host) is not None


def guard(
    app: Dash,
    server: Flask,
    is_allowed: Callable[[str], bool] = is_own_host,
    *,
    has_forms: bool = False,
) -> None:
    """Answers only to hosts that are allowed, and lets pages load nothing from elsewhere.

    has_forms: whether pages may send forms to this server; it then has to be told where these come from.
    Call it when all callbacks are defined: the inline scripts that Dash writes are allowed by their hashes.
    """
    scripts = " ".join(["'self'", *app.csp_hashes()])
    # Plotly and Dash write style elements; there is no hash for what they write.
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {scripts}",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'self'" if has_forms else "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )

    headers = HEADERS | ({"Referrer-Policy": "same-origin"} if has_forms else {})

    @server.before_request
    def refuse_other_hosts() -> None:
        if not is_allowed(request.headers.get("Host", "")):
            abort(403, "This server does not answer to this name.")

    @server.after_request
    def forbid_the_rest(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", policy)
        for name, value in headers.items():
            response.headers.setdefault(name, value)
        return response


def check_requests(app: Dash, server: Flask) -> None:
    """Lets through what the pages send. Call it when all callbacks are defined."""
    server.config["MAX_CONTENT_LENGTH"] = LARGEST_REQUEST

    @server.before_request
    def refuse() -> None:
        length = request.content_length
        if length is not None and length > LARGEST_REQUEST:
            abort(413)
        if request.path == CALLBACKS and request.method == "POST":
            problem = _problem(app, _body())
            if problem:
                abort(400, f"This is no request of a page: {problem}.")


def _body() -> Any:
    if not request.is_json:
        abort(400, "This is no request of a page: it is no JSON.")
    try:
        return request.get_json()
    except (RecursionError, UnicodeError):
        abort(400, "This is no request of a page: it is no JSON.")


def _problem(app: Dash, body: Any) -> str:
    """What no page of ours would have sent; nothing if there is no such thing."""
    if not isinstance(body, dict) or not isinstance(body.get("output"), str):
        return "it names no output"
    callback = app.callback_map.get(body["output"])
    if callback is None:
        return "its output is unknown"
    if not _same_outputs(body.get("outputs"), body["output"]):
        return "its outputs are not those of its output"
    changed = body.get("changedPropIds", [])
    if not isinstance(changed, list) or not all(isinstance(name, str) and "." in name for name in changed):
        return "what changed is no list of properties"
    for part in ("inputs", "state"):
        if not _fits(body.get(part, []), callback[part]):
            return f"its {part} are not those of its output"
    return ""


def _same_outputs(outputs: Any, output: str) -> bool:
    several = output.startswith("..")
    names = output.strip(".").split("...") if several else [output]
    given = outputs if several else [outputs]
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        return False
    return [f"{one.get('id')}.{one.get('property')}" for one in given] == names


def _fits(values: Any, declared: Sequence[Mapping[str, str]]) -> bool:
    """Whether these are the callback's inputs or states, each of a kind that a page can hold."""
    if not isinstance(values, list) or len(values) != len(declared):
        return False
    return all(
        isinstance(given, dict)
        and isinstance(given.get("id"), str)
        and isinstance(given.get("property"), str)
        and KINDS[wanted["property"], wanted["id"] in IDS](given.get("value"))
        for given, wanted in zip(values, declared, strict=True)
    )


def _text(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        return False
    return not any("\ud800" <= character <= "\udfff" or character == "\0" for character in value)


def _number(value: Any) -> bool:
    return value is None or _id(value)


def _id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_ID


def _version(value: Any) -> bool:
    return _number(value) or _text(value)


def _typed(value: Any) -> bool:
    """What a field for text or for a number holds."""
    is_plain = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_ID
    return is_plain or _text(value)


def _click(value: Any) -> bool:
    """Points of a figure that was clicked, or over which a box was dragged, as plotly tells them."""
    if value is None:
        return True
    points = value.get("points", []) if isinstance(value, dict) else None
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        return False
    return all(_text(point.get("customdata")) for point in points if isinstance(point.get("customdata"), str))


def _move(value: Any) -> bool:
    """The axes of a figure after a zoom, as plotly tells them."""
    return value is None or (isinstance(value, dict) and len(value) <= MOST_CHANGES)


IDS = ("job", "device")  # stores that hold the id of what a page is about
KINDS: Mapping[tuple[str, bool], Callable[[Any], bool]] = {
    ("pathname", False): _text,
    ("search", False): _text,
    ("n_intervals", False): _number,
    ("clickData", False): _click,
    ("data", False): _version,
    ("data", True): _id,
    ("selectedData", False): _click,
    ("relayoutData", False): _move,
    ("value", False): _typed,
}
