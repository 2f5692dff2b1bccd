"""What the dashboard's server refuses and forbids, whoever asks."""

import re

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


def guard(app: Dash, server: Flask) -> None:
    """Answers only to this machine's own names, and lets pages load nothing from elsewhere.

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
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )

    @server.before_request
    def refuse_other_hosts() -> None:
        if not OWN_HOST.fullmatch(request.headers.get("Host", "")):
            abort(403, "This dashboard answers to localhost only.")

    @server.after_request
    def forbid_the_rest(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = policy
        response.headers.update(HEADERS)
        return response
