"""Who is let in: hosts, tokens and sessions, checked before anything is answered; where one signs in."""

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote_plus, urlencode, urlsplit

from flask import Flask, Response, abort, g, redirect, request
from markupsafe import Markup

from dashboards.controls import Rights
from nas.cli.output import json_text
from nas.cli.server.tokens import SESSION_SECONDS, Role, Session, Tokens
from search_spaces.errors import NASError

COOKIE = "nas_session"
STYLE = "/assets/elastiform.css"
ICON = "/favicon.ico"  # which browsers ask for beside a document that is no page
OPEN_PATHS = ("/healthz", "/login", STYLE, ICON)
NAMED_HOST = re.compile(r"([\w.-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?", re.ASCII | re.IGNORECASE)
READING = ("GET", "HEAD", "OPTIONS")
TOKEN_FIELDS = frozenset({"access_token", "api_key", "apikey", "auth", "authorization", "token"})
POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


class ForbiddenError(NASError):
    """Whoever asks is known, and may not do this."""


def host_check(bound: str, names: Sequence[str]) -> Callable[[str], bool]:
    """Whether a server that is bound to an address answers to a Host header.

    A page elsewhere whose name is rebound to the server's address still sends its own name; an address in
    place of a name cannot be rebound. names: by which others reach the server.
    """
    is_alone = is_loopback(bound)
    allowed = {"localhost", *(name.lower() for name in names)}
    allowed |= set() if is_alone else {socket.gethostname().lower(), bound.lower()}

    def is_allowed(header: str) -> bool:
        match = NAMED_HOST.fullmatch(header)
        if match is None:
            return False
        name = match[1].lower().strip("[]")
        return name in allowed or is_loopback(name) or (not is_alone and _is_address(name))

    return is_allowed


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


@dataclass(frozen=True)
class Access:
    """What requests may do, by the tokens of the server."""

    tokens: Tokens

    def mount(self, server: Flask) -> None:
        """Checks every request of the server, and gives it the pages for signing in and out."""
        server.before_request(self._check)
        server.add_url_rule(ICON, "serve-icon", lambda: Response(status=204))
        server.add_url_rule("/login", "serve-login", self._login_page)
        server.add_url_rule("/login", "serve-sign_in", self._sign_in, methods=["POST"])
        server.add_url_rule("/logout", "serve-sign_out", self._sign_out, methods=["POST"])

    def rights(self) -> Rights:
        """What pages let whoever asks do; a program needs no forms."""
        if self.tokens.write is None:
            return Rights()
        session: Session | None = g.session
        if g.role < Role.WRITER or session is None:
            return Rights(can_sign_in=session is not None or "Authorization" not in request.headers)
        return Rights(csrf=session.csrf(self.tokens))

    def check_write(self) -> None:
        """Raises ForbiddenError unless whoever asks may change something, and means to."""
        if self.tokens.write is None:
            raise ForbiddenError(
                "Nothing can be changed through this server.", "It was started without --write-token-file."
            )
        if g.role < Role.WRITER:
            raise ForbiddenError("This needs the write token.", "Authorization: Bearer TOKEN")
        session: Session | None = g.session
        if session is None:
            return
        given = request.headers.get("X-CSRF-Token") or request.form.get("csrf", "")
        if not session.is_csrf(self.tokens, given):
            raise ForbiddenError(
                "This does not come from a page of this server.",
                "Load the page again; a program sends the token itself, as Authorization: Bearer TOKEN.",
            )

    def _check(self) -> Any:
        self._refuse_tokens_in_addresses()
        g.role, g.session = self.tokens.of_anybody, None
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            g.role = self.tokens.role_of(token.strip())
            if g.role is Role.NOBODY:
                return _unknown("This token is none of this server's.")
        elif session := Session.read(self.tokens, request.cookies.get(COOKIE, "")):
            g.role, g.session = session.role, session
        if request.method not in READING and not _is_from_here():
            abort(403, "This was sent by a page of another server.")
        if g.role is Role.NOBODY and request.path not in OPEN_PATHS:
            return _unknown("A token is needed: Authorization: Bearer TOKEN, or sign in at /login.")
        return None

    def _refuse_tokens_in_addresses(self) -> None:
        """An address is kept in logs and histories; what stands there is no secret."""
        address = f"{request.path}?{request.query_string.decode('latin-1')}"
        has_field = not TOKEN_FIELDS.isdisjoint(name.lower() for name in request.args)
        if has_field or self.tokens.are_in(address) or self.tokens.are_in(unquote_plus(address)):
            abort(400, "A token does not belong into an address, which is kept in logs: write a new one.")

    def _login_page(self) -> Response:
        return _login(next_path(), status=200)

    def _sign_in(self) -> Any:
        role = self.tokens.role_of(request.form.get("token", "").strip())
        if role is Role.NOBODY:
            return _login(next_path(), "This token is none of this server's.", status=401)
        answer = redirect(f"{request.script_root}{next_path()}", 303)
        answer.set_cookie(
            COOKIE,
            Session.begun(self.tokens, role).text,
            max_age=SESSION_SECONDS,
            path=request.script_root or "/",
            # Whoever lies about this keeps the cookie from nobody but himself.
            secure=request.headers.get("X-Forwarded-Proto") == "https",
            httponly=True,
            samesite="Strict",
        )
        return answer

    def _sign_out(self) -> Any:
        answer = redirect(f"{request.script_root}/login", 303)
        answer.delete_cookie(COOKIE, path=request.script_root or "/", httponly=True, samesite="Strict")
        return answer


def next_path() -> str:
    """Where a browser goes when it is let in: a path of ours, whatever the address names."""
    return own_path(request.args.get("next", "/"))


def own_path(path: str) -> str:
    """The path, if it is one of this server; else that of the start page."""
    parts = urlsplit(path) if re.fullmatch(r"/[!-\[\]-~]*", path, re.ASCII) else None
    if parts is None or parts.scheme or parts.netloc or path.startswith("//"):
        return "/"
    return path


def _is_from_here() -> bool:
    """Whether no page of another server has sent the request, as far as the browser tells."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site", "same-origin")
    if site not in ("same-origin", "none"):
        return False
    return origin is None or urlsplit(origin).netloc == request.headers.get("Host", "")


def _unknown(message: str) -> Any:
    """401; a browser that opens a page is sent to where it can sign in."""
    opens_page = request.method == "GET" and "text/html" in request.headers.get("Accept", "")
    if opens_page and "Authorization" not in request.headers:
        path = f"{quote(request.path)}?{request.query_string.decode('latin-1')}".rstrip("?")
        return redirect(f"{request.script_root}/login?{urlencode({'next': path})}", 303)
    answer = error_document(401, message)
    answer.headers["WWW-Authenticate"] = 'Bearer realm="Elastiform"'
    return answer


def error_document(status: int, message: str, hint: str = "") -> Response:
    """What went wrong, as JSON."""
    answer = Response(json_text({"error": message, "hint": hint}), status, mimetype="application/json")
    answer.headers["Cache-Control"] = "no-store"
    return answer


def html_page(title: str, body: Markup, *, status: int = 200) -> Response:
    """A page without scripts, which loads nothing but the dashboard's style."""
    text = Markup(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,"><link rel="stylesheet" href="{root}{style}"></head>'
        '<body><header><a class="brand" href="{root}/">Elastiform</a></header>'
        "<main><h1>{title}</h1>{body}</main></body></html>\n"
    ).format(title=title, body=body, root=request.script_root, style=STYLE)
    answer = Response(text, status, mimetype="text/html")
    # With `no-referrer` a browser would not say where a form comes from.
    answer.headers.update(
        {
            "Content-Security-Policy": POLICY,
            "Referrer-Policy": "same-origin",
            "Cache-Control": "no-store",
        }
    )
    return answer


def _login(path: str, wrong: str = "", *, status: int) -> Response:
    body = Markup(
        '<form method="post" action="{root}/login?{query}">{wrong}'
        '<p><label>Token <input type="password" name="token" id="token" autocomplete="current-password" '
        'required autofocus></label> <button type="submit">Sign in</button></p></form>'
        '<p>Signed in already? <a href="{root}{path}">Go on</a>.</p>'
    ).format(
        root=request.script_root,
        query=urlencode({"next": path}),
        path=path,
        wrong=Markup('<p class="error" role="alert">{}</p>').format(wrong) if wrong else "",
    )
    return html_page("Sign in", body, status=status)
