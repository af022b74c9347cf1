"""Who may ask the page what, and what every answer carries."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from iem_dcr.errors import ConfigError
from iem_dcr.service.web_settings import WebSettings
from iem_dcr.web import auth, middleware
from iem_dcr.web.auth import Auth
from iem_dcr.web.server import MAX_BODY, MAX_LINE
from tests.support.served_page import STATUS, observed, read_answer, served
from tests.support.virtual_time import virtual

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.served_page import Answer

TOKEN = "0123456789abcdef-token"  # noqa: S105  one of tests
WITH_TOKEN = WebSettings("127.0.0.1:0", token=TOKEN)


def form(token: str) -> bytes:
    return urlencode({"token": token}).encode()


def cookie_of(answer: Answer) -> str:
    return answer.headers["Set-Cookie"].split(";")[0]


# --- what is let through ---


@virtual
async def test_what_everybody_gets() -> None:
    async with served([observed()]) as page:
        for method in ("GET", "HEAD"):
            answer = await page.ask("/", method)
            assert answer.status == 200
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            assert (STATUS in answer.text) == (method == "GET")
        for path in ("/static/page.css", "/static/page.js", "/static/chart.js", "/static/icon.svg"):
            file = await page.ask(path)
            assert (file.status, file.headers["Cache-Control"]) == (200, "no-cache")
            again = await page.ask(path, If_None_Match=file.headers["ETag"])
            assert (again.status, again.body) == (304, b"")


@virtual
async def test_every_answer_is_guarded_and_nothing_can_be_done_but_looking() -> None:
    async with served([observed()]) as page:
        for path, method, status in (
            ("/", "GET", 200), ("/static/page.js", "GET", 200), ("/events", "HEAD", 200), ("/nowhere", "GET", 404),
            ("/meters/none", "GET", 404), ("/meters/pm1/receipts/m1", "GET", 404), ("/static/none", "GET", 404),
            *(("/meters/pm1", method, 405) for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")),
            ("/login", "GET", 303), ("/login", "DELETE", 405),
        ):  # fmt: skip
            answer = await page.ask(path, method)
            assert answer.status == status, path
            assert {name: answer.headers.get(name) for name in middleware.HEADERS} == middleware.HEADERS
            assert not any(name.startswith("Access-Control") for name in answer.headers)
        for nonsense in (b"\0\1\2 secret\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"a" * 2 * MAX_LINE + b"\r\n\r\n"):
            reader, writer = await page.connect()
            writer.write(nonsense)
            assert (await read_answer(reader)).status == 400
            writer.transport.abort()
        assert (await page.ask("/" + "a" * 2 * MAX_LINE)).status == 400
        assert (await page.ask("/", "POST", b"x" * 25 * MAX_BODY)).status == 405
    policy = middleware.HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")


@pytest.mark.parametrize(("settings", "taken", "refused"), [
    (
        WebSettings("127.0.0.1:0"),
        ["127.0.0.1", "localhost", "LOCALHOST.:9", "127.0.0.2:80", "[::1]:7", "localhost:8080"],
        ["evil.example", "10.0.0.1", "depot.example", "", "a b", "localhost.evil.example", "127.0.0.1.evil.example",
         "[::2]", "127.1", "0x7f.0.0.1", "localhost:80:80", "-"],
    ),
    (
        WebSettings("127.0.0.1:0", names="depot.example"),
        ["depot.example", "Depot.Example:443", "depot.example.", "127.0.0.1"], ["x.depot.example", "example"],
    ),
    (
        WebSettings("0.0.0.0:0", token=TOKEN),
        ["10.0.0.1:8080", "[fe80::1]:8080", "127.0.0.1"],
        ["evil.example", "10.0.0.1.evil.example", "[fe80::1", "1.2.3"],
    ),
])  # fmt: skip
@virtual
async def test_names_of_others_are_refused(settings: WebSettings, taken: list[str], refused: list[str]) -> None:
    async with served([observed()], settings) as page:
        for host in taken:
            assert (await page.ask("/static/icon.svg", Host=host)).status == 200, host
        for host in refused:
            assert (await page.ask("/static/icon.svg", Host=host)).status in (400, 421), host


def fetched(site: str, mode: str = "cors", destination: str = "empty") -> dict[str, str]:
    return {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": mode, "Sec_Fetch_Dest": destination}


@pytest.mark.parametrize(("headers", "status"), [
    ({}, 200), (fetched("same-origin"), 200), (fetched("none", "navigate", "document"), 200),
    ({"Origin": "http://127.0.0.1:{port}"}, 200), ({"Origin": "https://127.0.0.1:{port}"}, 200),
    (fetched("cross-site", "navigate", "document"), 200), (fetched("cross-site", "navigate", "iframe"), 403),
    (fetched("cross-site", "no-cors", "script"), 403), (fetched("same-site"), 403), (fetched("anything"), 403),
    *(({"Origin": origin}, 403) for origin in (
        "http://evil.example", "http://127.0.0.1:1", "null", "http://[127.0.0.1", "file://127.0.0.1:{port}",
    )),
], ids=range(15))  # fmt: skip
@virtual
async def test_what_pages_of_others_send_is_refused(headers: dict[str, str], status: int) -> None:
    async with served([observed()]) as page:
        filled: dict[str, Any] = {name: said.format(port=page.port) for name, said in headers.items()}
        assert (await page.ask("/", **filled)).status == status


@virtual
async def test_refusals_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with served([observed()]) as page:
        for _ in range(20):
            await page.ask("/", Host="evil.example\x1b")
            await page.ask("/", Host="evil.example")
            await page.ask("/\x00")
            await page.ask("/" + "a" * 10_000)
    lines = [record.getMessage() for record in caplog.records if "page is at" not in record.getMessage()]
    assert len(lines) == 5
    assert {line[:43] for line in lines} == {"a request for the host evil.example was ref"}


@virtual
async def test_a_person_gets_an_error_as_a_page() -> None:
    async with served([observed()]) as page:
        for path, status, said in (
            ("/nowhere", 404, "There is no such page."),
            ("/meters/none", 404, "There is no such meter."),
            ("/meters/pm1/history.csv?range=1h", 400, "range is 1h: expected one of 10min, 30min, 24h."),
        ):
            answer = await page.ask(path, Accept="text/html,*/*")
            assert (answer.status, answer.headers["Content-Type"]) == (status, "text/html; charset=utf-8")
            assert f"<p>{said}</p>" in answer.text
            assert 'href="/"' in answer.text
            assert (await page.ask(path)).text == f"{said}\n"
        stranger = await page.ask("/", Accept="text/html", Host="evil.example")
        assert (stranger.status, "<p>This page has another name." in stranger.text) == (421, True)


# --- the token ---


@virtual
async def test_without_the_token_there_is_nothing_to_see() -> None:
    async with served([observed()], WITH_TOKEN) as page:
        for path in ("/", "/events", "/meters/pm1", "/meters/none", "/nowhere", "/meters/pm1/receipts/m1.xml"):
            answer = await page.ask(path)
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="iem-dcr"')
            person = await page.ask(path, Accept="text/html,*/*")
            assert (person.status, person.headers["Location"]) == (303, "/login")
            assert "pm1" not in answer.text + person.text
        assert (await page.ask("/login")).status == 200
        assert (await page.ask("/static/page.css")).status == 200


@virtual
async def test_a_program_gives_it_with_every_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n", "utf-8")
    said = {f"Bearer {TOKEN}": 200, f"bearer   {TOKEN}": 200, f"Bearer {TOKEN}x": 401, f"Basic {TOKEN}": 401}
    for settings in (WITH_TOKEN, WebSettings("127.0.0.1:0", token_file=str(file))):
        async with served([observed()], settings) as page:
            for given, status in (said | {TOKEN: 401, "Bearer": 401}).items():
                assert (await page.ask("/", Authorization=given)).status == status, given
    assert "a wrong token for the bring-up page came from 127.0.0.1" in caplog.text
    assert TOKEN not in caplog.text
    file.write_text("short", "utf-8")
    with pytest.raises(ConfigError, match="holds no token"):
        settings.read_token()


@virtual
async def test_a_browser_gives_it_once() -> None:
    async with served([observed()], WITH_TOKEN) as page:
        wrong = await page.ask("/login", "POST", form("wrong"))
        assert (wrong.status, "Set-Cookie" in wrong.headers) == (403, False)
        right = await page.ask("/login", "POST", form(TOKEN), Origin=f"http://127.0.0.1:{page.port}")
        assert (right.status, right.headers["Location"]) == (303, "/")
        said = right.headers["Set-Cookie"]
        for part in ("HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"):
            assert part in said
        assert "Secure" not in said
        assert TOKEN not in said
        assert (await page.ask("/", Cookie=cookie_of(right))).status == 200
        assert (await page.ask("/login", Cookie=cookie_of(right))).status == 303
        for forged in (cookie_of(right)[:-1], cookie_of(right) + "0", f"{said.split('=')[0]}=9999999999.00"):
            assert (await page.ask("/", Cookie=forged)).status == 401
        secure = await page.ask("/login", "POST", form(TOKEN), Origin=f"https://127.0.0.1:{page.port}")
        assert "Secure" in secure.headers["Set-Cookie"]
        from_elsewhere = await page.ask("/login", "POST", form(TOKEN), Origin="http://evil.example")
        assert from_elsewhere.status == 403
        assert (await page.ask("/login", "POST", b"token=" + b"x" * MAX_BODY)).status == 413
        assert (await page.ask("/login", "POST", b"\xff\xfe=%zz")).status == 403
        assert (await page.ask("/login", "POST", Transfer_Encoding="chunked\r\n\r\nnonsense")).status == 400
        assert (await page.ask("/login", "POST", b"&" * 4000 + b"token=%ff%00")).status == 403
    async with served([observed()], WITH_TOKEN) as anew:
        assert (await anew.ask("/", Cookie=cookie_of(right))).status == 200
    async with served([observed()], WebSettings("127.0.0.1:0", token=TOKEN[::-1])) as other:
        assert (await other.ask("/", Cookie=cookie_of(right))).status == 401


@virtual
async def test_guessing_is_slow(caplog: pytest.LogCaptureFixture) -> None:
    async with served([observed()], WITH_TOKEN) as page:
        right = cookie_of(await page.ask("/login", "POST", form(TOKEN)))
        for number in range(auth.MAX_FAILURES):
            assert (await page.ask("/login", "POST", form(f"guess {number}"))).status == 403
        for _ in range(3):
            refused = await page.ask("/login", "POST", form(TOKEN))
            assert refused.status == 429
            assert 1 <= int(refused.headers["Retry-After"]) <= 11
            assert (await page.ask("/", Authorization=f"Bearer {TOKEN}")).status == 429
        # Who is in already stays in.
        assert (await page.ask("/", Cookie=right)).status == 200
        await asyncio.sleep(auth.FORGIVEN_EVERY_S)
        assert (await page.ask("/login", "POST", form(TOKEN))).status == 303
    told = [record.getMessage() for record in caplog.records]
    assert told == ["a wrong token for the bring-up page came from 127.0.0.1"] * auth.MAX_FAILURES
    assert TOKEN not in caplog.text
    assert "guess" not in caplog.text


def test_guesses_are_counted_by_network_and_forgotten() -> None:
    now_s = 0.0
    checked = Auth(TOKEN, lambda: now_s)
    for number in range(auth.MAX_FAILURES):
        assert checked.wait_s("fd00::1") == 0
        assert not checked.is_token("wrong", f"fd00::{number}")
    assert checked.wait_s("fd00::ffff") > 0
    assert checked.wait_s("fd00:0:0:1::1") == 0
    for _ in range(auth.MAX_FAILURES):
        checked.is_token("wrong", "::ffff:10.0.0.9")
    assert checked.wait_s("10.0.0.9") > 0
    assert checked.wait_s("::ffff:10.0.0.1") == checked.wait_s("10.0.0.1") == 0
    for number in range(2 * auth.MAX_ADDRESSES):
        checked.is_token("wrong", f"10.0.{number // 256}.{number % 256}")
    assert checked.wait_s("10.0.0.9") == 0  # forgotten: memory is bounded
    for _ in range(auth.MAX_FAILURES):
        checked.is_token("wrong", "10.0.1.255")
    assert checked.wait_s("10.0.1.255") == 2 * auth.FORGIVEN_EVERY_S
    now_s = 1000.0
    assert checked.wait_s("10.0.1.255") == 0


def test_a_cookie_ends() -> None:
    wall_s = 1e9
    checked = Auth(TOKEN, lambda: 0.0, lambda: wall_s)
    cookie = checked.session()
    assert checked.is_session(cookie)
    for nonsense in ("", ".", "1", "x.y", "٣.00", "9" * 400, f"{cookie}\udce4", "-1.00"):
        assert not checked.is_session(nonsense)
    wall_s += auth.SESSION_S + 1
    assert not checked.is_session(cookie)
    # A cookie of a time far off was made by a clock that was wrong, or by nobody.
    wall_s = 1e8
    assert not checked.is_session(cookie)
