"""Who is let in: hosts, tokens, sessions, pages of other servers; and servers that do not start."""

import os
import re
import time
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from serving import READ, WRITE, Answer, Served, served

from nas.cli import main
from nas.cli.server import tokens
from nas.cli.server.access import host_check
from nas.cli.server.tokens import Role, Session, Tokens, read_token
from nas.store import Store
from search_spaces.errors import UsageError

BOTH = Tokens(READ, WRITE)
FORM = {"Content_Type": "application/x-www-form-urlencoded"}


def sign_in(team: Served, token: str, path: str = "/login", **headers: str) -> Answer:
    body = urlencode({"token": token}).encode()
    return team.ask(path, method="POST", body=body, **{**FORM, **headers})


def cookie(answer: Answer) -> str:
    morsel = SimpleCookie(answer.headers["Set-Cookie"])["nas_session"]
    assert (morsel["httponly"], morsel["samesite"], morsel["path"]) == (True, "Strict", "/")
    return f"nas_session={morsel.value}"


# -- hosts --


@pytest.mark.parametrize(
    ("bound", "header", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1:8050", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "LOCALHOST:1", True),
        ("127.0.0.1", "[::1]:8050", True),
        ("127.0.0.1", "nas.example", True),
        ("127.0.0.1", "nas.example:443", True),
        ("127.0.0.1", "192.168.0.7", False),
        ("127.0.0.1", "evil.example", False),
        ("127.0.0.1", "nas.example.evil", False),
        ("127.0.0.1", "evil.example:127.0.0.1", False),
        ("127.0.0.1", "localhost:80:80", False),
        ("127.0.0.1", "localhost\n", False),
        ("127.0.0.1", "", False),
        ("0.0.0.0", "192.168.0.7:8050", True),
        ("0.0.0.0", "[2001:db8::7]", True),
        ("0.0.0.0", "nas.example", True),
        ("0.0.0.0", "evil.example", False),
        ("0.0.0.0", "1.2.3.4.evil.example", False),
        ("10.0.0.5", "10.0.0.5", True),
    ],
)
def test_hosts(bound: str, header: str, allowed: bool) -> None:
    assert host_check(bound, ["NAS.example"])(header) is allowed


def test_a_rebound_name_is_403_whatever_it_shows(quiet_team: Served) -> None:
    for path in ("/", "/api/jobs", "/healthz", "/login", "/metrics"):
        assert quiet_team.ask(path, token=WRITE, Host="evil.example").status == 403
        assert quiet_team.ask(path, token=WRITE, Host="nas.example:8050").status == 200


# -- tokens --


def test_a_token_says_who_may_what() -> None:
    assert [BOTH.role_of(token) for token in (READ, WRITE, "", READ[:-1], f"{READ}x", "\u20ac")] == [
        *(Role.READER, Role.WRITER, *([Role.NOBODY] * 4)),
    ]
    assert [Tokens().role_of(token) for token in ("", READ)] == [Role.NOBODY] * 2
    assert (Tokens().of_anybody, BOTH.of_anybody, Tokens(write=WRITE).of_anybody) == (1, 0, 1)
    assert READ not in repr(BOTH)
    assert WRITE not in repr(BOTH)


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def counted(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr("hmac.compare_digest", counted)
    for token in (READ, WRITE, "x", ""):
        BOTH.role_of(token)
    assert compared == [(32, 32)] * 8  # both tokens, whatever the first says, and digests of one length


@pytest.mark.parametrize(
    "path",
    [
        f"/api/jobs?token={READ}",
        "/api/jobs?access_token=something",
        "/api/jobs?TOKEN=x",
        f"/api/jobs?tag={READ}",
        f"/api/jobs/{WRITE}",
        f"/job/{quote(WRITE[:5])}%{ord(WRITE[5]):02x}{WRITE[6:]}",
        f"/login?next=/{READ}",
        f"/healthz?{WRITE}",
    ],
)
def test_a_token_in_an_address_is_refused_and_not_repeated(
    path: str, quiet_team: Served, capfd: pytest.CaptureFixture[str]
) -> None:
    for token in (None, WRITE):
        answer = quiet_team.ask(path, token=token)
        assert answer.status == 400
        assert "write a new one" in answer.document["error"]
        assert READ not in answer.text
        assert WRITE not in answer.text
    said = "".join(capfd.readouterr())
    assert READ not in said
    assert WRITE not in said


def test_no_token_is_ever_logged(team: Served, capfd: pytest.CaptureFixture[str]) -> None:
    team.post("/api/jobs/first/stop")
    team.post("/api/jobs/first/stop", token=READ)
    sign_in(team, WRITE)
    said = "".join(capfd.readouterr())
    assert "127.0.0.1 stop first: 200" in said
    assert "127.0.0.1 stop: 403" in said
    assert READ not in said
    assert WRITE not in said


# -- sessions --


def test_a_browser_signs_in_once(team: Served) -> None:
    answer = sign_in(team, READ, "/login?next=/job/1%3Fsubnet%3Dx")
    assert (answer.status, answer.headers["Location"]) == (303, "/job/1?subnet=x")
    assert READ not in answer.headers["Set-Cookie"]
    assert "Secure" not in answer.headers["Set-Cookie"]
    session = cookie(answer)
    assert team.ask("/api/jobs", Cookie=session).status == 200
    assert team.ask("/api/session", Cookie=session).document["role"] == "reader"
    assert team.ask("/api/jobs/first/stop", method="POST", Cookie=session).status == 403
    away = team.ask("/logout", method="POST", Cookie=session)
    assert (away.status, SimpleCookie(away.headers["Set-Cookie"])["nas_session"].value) == (303, "")


def test_behind_https_the_cookie_is_secure(team: Served) -> None:
    assert "Secure" in sign_in(team, READ, X_Forwarded_Proto="https").headers["Set-Cookie"]


def test_a_wrong_token_signs_nobody_in(team: Served) -> None:
    for wrong in ("", "x", READ[:-1], "<b>" + "x" * 40):
        answer = sign_in(team, wrong)
        assert answer.status == 401
        assert "Set-Cookie" not in answer.headers
        assert 'role="alert">This token is none' in answer.text
        assert "<b>" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "https://evil.example/",
        "/\\evil.example",
        "\\\\evil",
        "/a\r\nSet-Cookie: x=1",
        "",
        "job",
    ],
)
def test_nobody_is_sent_elsewhere_after_signing_in(path: str, quiet_team: Served) -> None:
    answer = sign_in(quiet_team, READ, f"/login?{urlencode({'next': path})}")
    assert (answer.status, answer.headers["Location"]) == (303, "/")


def test_a_session_is_that_of_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = Session.begun(BOTH, Role.READER), Session.begun(BOTH, Role.WRITER)
    assert Session.read(BOTH, reader.text) == reader
    assert Session.read(BOTH, writer.text) == writer
    assert Session.read(Tokens(READ, "other-" + "o" * 30), reader.text) == reader
    assert Session.read(Tokens(READ, "other-" + "o" * 30), writer.text) is None
    assert Session.read(Tokens(READ), writer.text) is None
    assert Session.read(Tokens(write=WRITE), reader.text) is None
    promoted = f"2{reader.text[1:]}"
    for forged in (
        promoted,
        f"{reader.text}0",
        reader.text[:-1],
        "",
        "1.1.x.y",
        f"3{reader.text[1:]}",
        "a" * 9000,
    ):
        assert Session.read(BOTH, forged) is None
    for seconds in (tokens.SESSION_SECONDS, -10):
        moment = time.time() + seconds
        monkeypatch.setattr("nas.cli.server.tokens.time.time", lambda moment=moment: moment)
        assert Session.read(BOTH, reader.text) is None
        monkeypatch.undo()


def test_a_forged_cookie_is_nobody(quiet_team: Served) -> None:
    for forged in ("x", "2.1.0.0", Session.begun(Tokens("o" * 30, "p" * 30), Role.WRITER).text):
        assert quiet_team.ask("/api/jobs", Cookie=f"nas_session={forged}").status == 401


# -- changes from browsers --


def test_a_change_by_a_cookie_needs_what_only_our_pages_know(team: Served) -> None:
    session = cookie(sign_in(team, WRITE))
    csrf = team.ask("/api/session", Cookie=session).document["csrf"]

    def change(**headers: str) -> int:
        return team.post(
            "/api/jobs/first/priority", {"priority": 7}, token=None, Cookie=session, **headers
        ).status

    others = Session.begun(BOTH, Role.WRITER).csrf(BOTH)
    for headers in ({}, {"X_CSRF_Token": ""}, {"X_CSRF_Token": others}, {"X_CSRF_Token": f"{csrf}x"}):
        assert change(**headers) == 403
    with Store.open(team.url, read_only=True) as store:
        assert store.job("first").priority == 2
    assert change(X_CSRF_Token=csrf) == 200
    with Store.open(team.url, read_only=True) as store:
        assert store.job("first").priority == 7


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_what_another_page_sends_changes_nothing(headers: dict[str, str], team: Served) -> None:
    session = cookie(sign_in(team, WRITE))
    csrf = team.ask("/api/session", Cookie=session).document["csrf"]
    assert sign_in(team, WRITE, **headers).status == 403
    assert (
        team.post("/api/jobs/first/stop", token=None, Cookie=session, X_CSRF_Token=csrf, **headers).status
        == 403
    )
    form = urlencode({"csrf": csrf, "job": "first"}).encode()
    asked = team.ask("/api/form/stop", method="POST", body=form, Cookie=session, **{**FORM, **headers})
    assert asked.status == 403
    with Store.open(team.url, read_only=True) as store:
        assert store.job("first").state == "queued"


def test_the_forms_of_the_page_do_what_the_api_does(team: Served) -> None:
    session = cookie(sign_in(team, WRITE))
    page = team.ask("/api", Cookie=session).text
    (csrf,) = set(re.findall(r'name="csrf" value="(\w+)"', page))

    def send(name: str, **fields: str) -> Answer:
        body = urlencode({"csrf": csrf, **fields}).encode()
        return team.ask(f"/api/form/{name}", method="POST", body=body, Cookie=session, **FORM)

    assert [one["priority"] for one in send("priority", job="first", priority="-3").document] == [-3]
    assert send("tags", job="1", tags="b\r\n\r\na\r\n").document["tags"] == ["a", "b"]
    assert send("note", job="1", note="so\r\nthat").document["note"] == "so\nthat"
    assert send("note", job="1", note="").document["note"] is None
    assert send("priority", job="first", priority="x").status == 400
    assert send("priority", job="nobody", priority="1").status == 404
    assert send("extract", job="nobody", knee="true").status == 404
    assert send("jobs").status == 404
    assert send("nothing").status == 404
    assert send("stop", job="first", csrf="x").status == 403
    assert "out of the queue" in send("stop", job="first").document["message"]


def test_pages_may_load_nothing_and_stand_in_no_frame(quiet_team: Served) -> None:
    for path in ("/", "/api", "/api/jobs", "/login", "/healthz", "/api/nothing", "/metrics"):
        headers = quiet_team.ask(path, token=READ).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "http" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "Access-Control-Allow-Origin" not in headers
    assert "script-src" not in quiet_team.ask("/login").headers["Content-Security-Policy"]


# -- servers that do not start --


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{READ}\n")
    file.chmod(0o600)
    return file


def test_a_token_is_read_without_the_end_of_its_line(token_file: Path) -> None:
    assert read_token(token_file) == READ
    token_file.chmod(0o640)
    assert read_token(token_file) == READ


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"", 0o600, "is empty"),
        (b"  \n\n", 0o600, "is empty"),
        (b"short\n", 0o600, "has 5 characters; at least 24 are needed"),
        (b"two words that are long enough", 0o600, "more than one word"),
        (b"x" * 5000, 0o600, "more than one word"),
        ("ü".encode() * 30, 0o600, "more than one word"),
        (READ.encode(), 0o644, "open to every user of this machine \\(mode 644\\)"),
        (READ.encode(), 0o602, "open to every user"),
    ],
)
def test_a_token_file_that_is_none(content: bytes, mode: int, words: str, token_file: Path) -> None:
    token_file.write_bytes(content)
    token_file.chmod(mode)
    with pytest.raises(UsageError, match=words) as caught:
        read_token(token_file)
    assert READ not in caught.value.message + caught.value.hint
    assert "\n" not in caught.value.message


def test_a_token_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_token(tmp_path / "nothing")
    with pytest.raises(UsageError, match="cannot be read"):
        read_token(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="cannot be read"):
        read_token(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "Others can reach '0.0.0.0', so the server needs --token-file"),
        (["--host", "::"], "Others can reach '::'"),
        (["--host", "example.org"], "Others can reach 'example.org'"),
        (["--host", "0.0.0.0", "--write-token-file", "TOKEN"], "Others can reach '0.0.0.0'"),
        (["--token-file", "MISSING"], "cannot be read: No such file"),
        (["--token-file", "TOKEN", "--write-token-file", "TOKEN"], "Both token files hold the same token"),
        (["--prefix", "nas"], "is no path such as /nas"),
        (["--prefix", "/a b"], "is no path such as /nas"),
        (["--prefix", "/../x"], "is no path such as /nas"),
        (["--allow-host", "team.example"], "By the name 'team.example' others reach the server"),
        (["--allow-host", "http://x"], "is no name of a host"),
        (["--allow-components", "mine"], "is builtin or any"),
        (["--files", "MISSING"], "is no folder"),
        (["--files", "HERE", "--allow-components", "any"], "may be anywhere"),
    ],
)
def test_a_server_that_must_not_start_says_why_in_a_sentence(
    words: list[str], message: str, token_file: Path, used_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"TOKEN": str(token_file), "MISSING": str(token_file.with_name("nothing"))}
    places["HERE"] = str(token_file.parent)
    given = [places.get(word, word) for word in words]
    assert main(["serve", "--port", "0", "--store", used_url, *given]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert "The server is at" not in said


def test_a_port_that_is_taken_and_a_store_that_is_not_there(
    used_url: str, store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(used_url, Tokens()) as one:
        assert main(["serve", "--port", str(one.port), "--store", used_url]) == 4
        assert "Choose another one with --port" in capsys.readouterr().err
    assert main(["serve", "--port", "0", "--store", f"{store_url}.nowhere"]) == 5
    assert not Path(f"{store_url}.nowhere".removeprefix("sqlite:///")).exists()
