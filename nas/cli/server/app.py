"""The server's application: the dashboard with the routes of the API, each answered alike."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn, get_origin

from flask import Flask, Response, g, redirect, request
from markupsafe import Markup
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from dashboards.app import create_app
from dashboards.asks import Asks, Subnet
from dashboards.controls import FORMS
from nas.cli.output import json_text, note
from nas.cli.server import metrics
from nas.cli.server.access import Access, ForbiddenError, error_document, html_page, own_path
from nas.cli.server.api.description import from_form, openapi, page
from nas.cli.server.api.routes import ROUTES
from nas.cli.server.api.service import Call, Route, Service, Taken
from nas.cli.server.children import BusyError, LateError
from nas.cli.server.tokens import Tokens
from nas.errors import ConflictError, StoreError
from search_spaces.errors import NASError, NotFoundError, UsageError

STATUS: Mapping[type[NASError], int] = {
    UsageError: 400,
    ForbiddenError: 403,
    NotFoundError: 404,
    ConflictError: 409,
    BusyError: 503,
    StoreError: 503,
    LateError: 504,
}
LINKS = (("API", "/api"),)
MOST_PROBLEMS = 5


def application(
    service: Service,
    tokens: Tokens,
    *,
    is_allowed: Callable[[str], bool],
    prefix: str = "",
) -> Flask:
    """The dashboard over the service's store, and its API.

    prefix: what stands before its paths in the browser.  is_allowed: whether it answers to a Host header.
    """
    access = Access(tokens)
    server: Flask = create_app(
        service.url,
        prefix=prefix,
        is_allowed=is_allowed,
        links=LINKS,
        rights=access.rights,
        asks=_asks(service),
    ).server
    access.mount(server)
    server.register_error_handler(HTTPException, _http_error)
    for route in ROUTES:
        view = partial(_answer, service, access, route)
        server.add_url_rule(route.path, f"serve-{route.name}", view, methods=[route.method])
    server.add_url_rule(f"{FORMS}<name>", "serve-form", partial(_form, service, access), methods=["POST"])
    server.add_url_rule("/api", "serve-page", partial(_page, access))
    server.add_url_rule("/api/openapi.json", "serve-openapi", lambda: _json(openapi(request.script_root)))
    server.add_url_rule("/api/session", "serve-session", partial(_session, access))
    server.add_url_rule("/api/", "serve-no_route", _no_route, defaults={"path": ""})
    server.add_url_rule("/api/<path:path>", "serve-no_route", _no_route, methods=["GET", "POST"])
    server.add_url_rule("/healthz", "serve-health", partial(_health, service))
    server.add_url_rule("/metrics", "serve-metrics", partial(_metrics, service))
    return server


def _asks(service: Service) -> Asks:
    """What pages ask, answered by a process of its own as the API does."""

    def what_if(job_id: int, *, limits: list[str], device: str | None) -> dict[str, Any]:
        options = {"limits": limits, "device": device, "objectives": None}
        return _asked(service, "what-if", job_id, options)

    def explain(job_id: int, subnet: Subnet, *, other: Subnet | None, device: str | None) -> dict[str, Any]:
        ends = {"subnet": _text(subnet), "other": None if other is None else _text(other)}
        return _asked(service, "explain", job_id, ends | {"device": device})

    return Asks(what_if, explain)


def _text(subnet: Subnet) -> str:
    return subnet if isinstance(subnet, str) else json.dumps(subnet)


def _asked(service: Service, verb: str, job_id: int, options: Mapping[str, Any]) -> dict[str, Any]:
    request = {**service.request, "verb": verb, "job": job_id, "options": options}
    document: dict[str, Any] = service.children.ask(request)
    return document


def _answer(service: Service, access: Access, route: Route, **words: Any) -> Response:
    """What a route answers, or what is wrong; of changes a line for whoever runs the server."""
    try:
        if route.writes:
            access.check_write()
        query = _checked(route.query, _of_query(route.query))
        body = None if route.body is None else _checked(route.body, _json_body())
        return _done(service, route, Call(_plain_words(words), query, body))
    except NASError as error:
        return _failed(route, error)


def _done(service: Service, route: Route, call: Call) -> Response:
    document = route.answer(service, call)
    answer = document if isinstance(document, Response) else _json(document)
    answer.headers["Cache-Control"] = "no-store"
    if route.writes:
        note(f"{request.remote_addr} {route.name} {call.words.get('job', '')}: {answer.status_code}")
    return answer


def _failed(route: Route, error: NASError) -> Response:
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
    if route.writes:
        note(f"{request.remote_addr} {route.name}: {status}")
    answer = error_document(status, error.message, error.hint)
    if status == 503:
        answer.headers["Retry-After"] = "5"
    return answer


def _json(document: Any) -> Response:
    return Response(json_text(document), mimetype="application/json")


# -- what requests hold --


def _of_query(query: type[Taken]) -> dict[str, Any]:
    """The query of the address by the fields of a model. Raises UsageError for one that is there twice."""
    values: dict[str, Any] = {}
    for name, given in request.args.lists():
        field = query.model_fields.get(name)
        if field is not None and get_origin(field.annotation) is list:
            values[name] = given
        elif len(given) > 1:
            raise UsageError(f"{name[:60]!a} stands twice in the address.")
        else:
            is_number = field is not None and field.annotation is int and given[0].isascii()
            values[name] = int(given[0]) if is_number and given[0].isdigit() else given[0]
    return values


def _json_body() -> Any:
    """The JSON of the request; nothing stands for an empty object. Raises UsageError."""
    content = request.get_data()
    if not content:
        return {}
    if request.mimetype != "application/json":
        raise UsageError("The body is no JSON.", "Content-Type: application/json")
    try:
        return json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error).split(":")[0]
        raise UsageError(f"The body cannot be read as JSON: {reason[:80]}.") from None


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _checked(model: type[Taken], values: Any) -> Taken:
    """The values as the model takes them. Raises UsageError with the first of what is wrong."""
    try:
        taken = model.model_validate(values)
        for text in _texts(values):
            text.encode()
            if "\0" in text:
                raise UsageError("A text holds a NUL character.")
        return taken
    except UnicodeEncodeError:
        raise UsageError("A text is no Unicode: it holds half of a surrogate pair.") from None
    except RecursionError:
        raise UsageError("The body is nested too deep.") from None
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part)[:60] for part in one['loc']) or 'the body'}: {one['msg']}"
            for one in error.errors(include_url=False, include_input=False)[:MOST_PROBLEMS]
        ]
        fields = ", ".join(model.model_fields) or "none"
        raise UsageError(ascii("; ".join(problems))[1:-1] + ".", f"Fields: {fields}.") from None


def _texts(values: Any) -> list[str]:
    if isinstance(values, str):
        return [values]
    if isinstance(values, Mapping):
        return [text for key, value in values.items() for text in (str(key), *_texts(value))]
    return [text for value in values for text in _texts(value)] if isinstance(values, list) else []


def _plain_words(words: Mapping[str, Any]) -> Mapping[str, Any]:
    """The words of an address. Raises NotFoundError for what no name can be."""
    for word in words.values():
        if isinstance(word, str) and ("\0" in word or len(word) > 200):
            raise NotFoundError(f"There is no {word[:60]!a}.")
    return words


# -- what is no route of the table --


def _form(service: Service, access: Access, name: str) -> Any:
    """The same as a route of the table, sent by the form of a page.

    A form that names the page to go on with (`next`) is answered with that page, or with one that says what
    is wrong.
    """
    answer = _form_answer(service, access, name)
    path = request.form.get("next")
    if path is None or answer.mimetype != "application/json":
        return answer
    if answer.status_code == 200:
        return redirect(f"{request.script_root}{own_path(path)}", 303)
    document = answer.get_json()
    body = Markup('<p class="error" role="alert">{} {}</p><p><a href="{}{}">Back</a></p>').format(
        document["error"], document["hint"], request.script_root, own_path(path)
    )
    return html_page("That was not done", body, status=answer.status_code)


def _form_answer(service: Service, access: Access, name: str) -> Response:
    """What the route answers."""
    route = next((route for route in ROUTES if route.name == name and route.body is not None), None)
    if route is None or route.body is None:
        return error_document(404, "There is no such form.")
    try:
        access.check_write()
        body = _checked(route.body, from_form(route.body, request.form))
        words: dict[str, Any] = {"job": request.form.get("job", "").strip()} if "<" in route.path else {}
        if "<int:job>" in route.path:
            words["job"] = service.opened.get().job(_plain_words(words)["job"]).id
        return _done(service, route, Call(_plain_words(words), None, body))
    except NASError as error:
        return _failed(route, error)


def _page(access: Access) -> Response:
    return html_page("API", page(access.rights().csrf))


def _session(access: Access) -> Response:
    """What whoever asks may do, and what a browser's changes are sent with, as X-CSRF-Token."""
    csrf = None if g.session is None else g.session.csrf(access.tokens)
    answer = _json({"role": g.role.name.lower(), "csrf": csrf})
    answer.headers["Cache-Control"] = "no-store"
    return answer


def _no_route(path: str) -> Response:
    return error_document(404, "There is no such address in the API.", "/api lists them.")


def _health(service: Service) -> Response:
    """200 while the store answers."""
    try:
        service.opened.get()
    except NASError:
        return error_document(503, "The store cannot be read.")
    return _json({"ok": True})


def _metrics(service: Service) -> Response:
    try:
        return Response(metrics.metrics(service.opened.get()), content_type=metrics.TYPE)
    except NASError as error:
        return error_document(503, error.message, error.hint)


def _http_error(error: HTTPException) -> Response:
    words = "The request is too large." if isinstance(error, RequestEntityTooLarge) else error.description
    answer = error_document(error.code or 500, words or error.name)
    for name, value in _kept(error.get_headers()):
        answer.headers[name] = value
    return answer


def _kept(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name in ("Allow", "Location")]
