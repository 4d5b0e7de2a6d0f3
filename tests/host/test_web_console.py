"""The web console as people use it: headless Chromium clicks through the pages of a host that talks to
another, and what is no honest request is refused and told.

With STOCKADE_SCREENSHOTS=DIR the pictures of the manual are written there (`make screenshots`)."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from web_world import WebConsole, cookie_of, token_of

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.console.main import main as stockade
from stockade.lab.needs import find_program
from stockade.lab.netns import Network
from stockade.lab.real import Agent

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ALPHA, BETA, NOBODY = "10.78.0.1", "10.78.0.2", "10.78.0.77"
KEY = "the-key-that-no-page-shows-4711"
POLICY = f"""
ipsec static
add filterlist name="Traffic with {{peer}}"
add filter filterlist="Traffic with {{peer}}" srcaddr=me dstaddr={{peer}} protocol=ICMP description="ping"
add filter filterlist="Traffic with {{peer}}" srcaddr=me dstaddr={NOBODY} protocol=ICMP
add filterlist name=Telnet
add filter filterlist=Telnet srcaddr=any dstaddr=me protocol=TCP dstport=23
add filteraction name="Require security" qmsecmethods="ESP[AESGCM128,None]:100000k/3600s"
add filteraction name=Block action=block
add policy name="Two hosts" activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name="Secure the peer" policy="Two hosts" filterlist="Traffic with {{peer}}" filteraction="Require security" psk="{KEY}"
add rule name="No telnet" policy="Two hosts" filterlist=Telnet filteraction=Block
set policy name="Two hosts" assign=yes
"""  # noqa: E501
pytestmark = pytest.mark.timeout(600)  # for machines that are slow and busy
WAIT = 60_000
"""Milliseconds that a page may take, on a busy machine."""


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebConsole]:
    """Alpha's console. Alpha has talked to beta while negotiations were recorded, and tried to reach
    nobody."""
    base = tmp_path_factory.mktemp("web")
    hosts = {"alpha": IPv4Interface(f"{ALPHA}/24"), "beta": IPv4Interface(f"{BETA}/24")}
    with ExitStack() as stack:
        network = stack.enter_context(Network(hosts))
        agents = []
        for name, peer in (("alpha", BETA), ("beta", ALPHA)):
            script = base / f"{name}.netsh"
            script.write_text(POLICY.format(peer=peer))
            assert stockade(["--home", str(base / name), "netsh", "-f", str(script)]) == 0
            agents.append(Agent(network[name], base / name))
            agents[-1].start()
        for agent in agents:
            agent.wait_until_ready()
        client = AgentClient(Paths.of(base / "alpha").socket, timeout=60.0)
        client.post("/v1/negotiations/record", {"seconds": "3600"})
        ping = ["ping", "-q", "-i", "0.2", "-W", "10"]
        assert network["alpha"].run([*ping, "-c", "5", BETA], check=False, timeout=60).returncode == 0
        network["alpha"].run([*ping, "-c", "1", "-w", "2", NOBODY], check=False, timeout=60)
        opened = stack.enter_context(WebConsole(network["alpha"], base / "alpha", "--listen", "127.0.0.1:0"))
        # what is cut after a while is begun now, and looked at by the last tests
        opened.slow = stack.enter_context(opened.connect())
        opened.slow.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        yield opened
        for agent in agents:
            agent.terminate()


def journal(console: WebConsole) -> list[dict[str, object]]:
    client = AgentClient(Paths.of(console.home).socket, timeout=60.0)
    return list(client.get("/v1/journal", {"last": "1000"})["entries"])


def await_journal(console: WebConsole, fits: Callable[[dict[str, object]], bool]) -> dict[str, object]:
    """The newest entry that fits; the console tells the agent in the background."""
    deadline = time.monotonic() + 60
    while True:
        found = [entry for entry in journal(console) if fits(entry)]
        if found:
            return found[-1]
        assert time.monotonic() < deadline, journal(console)[-10:]
        time.sleep(0.1)


# ---- in a browser


@pytest.fixture(scope="module")
def browser(console: WebConsole, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Browser]":
    """Chromium in alpha's namespace."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = find_program("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed (Debian: chromium)")
    # as root, in a namespace of its own: the sandbox of Chromium has nothing to add
    wrapper = tmp_path_factory.mktemp("browser") / "chromium"
    words = " ".join(console.namespace.argv([chromium, "--no-sandbox"]))
    wrapper.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    wrapper.chmod(0o755)
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(wrapper), headless=True, timeout=120_000)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: "Browser", console: WebConsole) -> "Iterator[Page]":
    """A page that is signed in as operator. A fault in a page's script, or something that the content
    security policy stopped, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    context.set_default_timeout(WAIT)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if "Policy" in message.text else None)
    page.goto(console.link())
    page.wait_for_selector("h1:has-text('Overview')")
    page.wait_for_load_state()
    yield page
    context.close()
    assert faults == []


def keep_picture(page: "Page", name: str) -> None:
    folder = os.environ.get("STOCKADE_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png")


def go(page: "Page", name: str) -> None:
    page.click(f"header nav a:text-is('{name}')")
    page.wait_for_selector(f"header nav a[aria-current]:text-is('{name}')")
    page.wait_for_load_state()


def test_the_overview_draws_its_plots_and_refreshes(page: "Page") -> None:
    page.wait_for_selector(".plot[data-state=drawn] canvas")
    assert "Two hosts" in page.inner_text(".figures")
    page.evaluate("document.querySelector('#live').dataset.old = 'yes'")
    page.wait_for_selector("#live:not([data-old])")


def test_filters_are_found_while_one_types(page: "Page") -> None:
    go(page, "Filters")
    assert page.locator("#rows tbody tr").count() > 5
    page.keyboard.press("/")
    page.keyboard.type("telnet 23")
    page.wait_for_selector("#rows tbody:not(:has(.action:not(.block)))")
    assert page.locator("#rows tbody tr").count() >= 1
    assert "q=telnet" in page.url
    keep_picture(page, "filters")


def test_a_refused_negotiation_is_a_ladder_with_the_remedy(page: "Page", console: WebConsole) -> None:
    go(page, "Negotiations")
    page.click("#rows tr:has(.outcome.established):has-text('main mode') a")
    page.wait_for_selector("svg.ladder .arrow.out")
    assert page.locator("svg.ladder .arrow").count() >= 4
    assert "we choose" in page.inner_text(".story") or "the peer chooses" in page.inner_text(".story")
    keep_picture(page, "ladder")
    page.goto(f"{console.url}/negotiations?q={NOBODY}")
    page.click("#rows tbody a")
    assert page.locator("svg.ladder .arrow.out, svg.ladder .arrow.again").count() >= 1
    body = page.content()
    assert KEY not in body


def test_the_policy_is_a_tree_and_shows_no_key(page: "Page") -> None:
    go(page, "Policy")
    page.click("summary:has-text('Secure the peer')")
    text = page.inner_text("main")
    assert "preshared-key" in text
    assert BETA in text
    assert KEY not in page.content()
    keep_picture(page, "policy")


def test_history_says_what_changed_and_shows_no_key(page: "Page") -> None:
    go(page, "History")
    page.click("a:text-is('since then') >> nth=-1")
    page.wait_for_selector("pre.difference .plus")
    assert "Secure the peer" in page.inner_text("pre.difference")
    assert KEY not in page.content()
    keep_picture(page, "difference")
    page.go_back()
    assert KEY not in page.content()


def test_explain_answers_with_a_picture(page: "Page") -> None:
    go(page, "Explain")
    page.fill("input[name=source]", ALPHA)
    page.fill("input[name=destination]", BETA)
    page.fill("input[name=protocol]", "icmp")
    page.keyboard.press("Enter")
    page.wait_for_selector("svg.verdict .shield.lock")
    assert "Secure the peer" in page.inner_text("#verdict")
    keep_picture(page, "explain")
    page.fill("input[name=source]", "no address")
    page.click("button:text-is('Explain')")
    assert "expected an IP address" in page.inner_text(".refusal")


def test_an_operator_deletes_the_sas_with_a_peer(page: "Page", console: WebConsole) -> None:
    ping = ["ping", "-q", "-c", "3", "-i", "0.2", "-W", "10", BETA]
    assert console.namespace.run(ping, check=False, timeout=60).returncode == 0
    go(page, "SAs")
    keep_picture(page, "sas")
    row = f"#rows tr:has-text('{BETA}'):has(button)"
    page.wait_for_selector(row)
    asked: list[str] = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    page.click(f"{row} >> nth=0 >> button")
    entry = await_journal(console, lambda entry: "deleted the SAs" in str(entry["text"]))
    assert entry["facts"]["peer"] == BETA  # type: ignore[index]
    assert BETA in asked[0]
    page.wait_for_selector("h1:text-is('Security associations')")
    go(page, "Time line")
    page.wait_for_selector("svg.timeline circle.mark")
    assert BETA in page.inner_text("main")
    keep_picture(page, "timeline")


def test_keys_lead_through_the_pages(page: "Page", console: WebConsole) -> None:
    for key, title in (("f", "Filters"), ("j", "Journal"), ("e", "Explain"), ("o", "Overview")):
        page.keyboard.press("g")
        page.keyboard.press(key)
        page.wait_for_selector(f"h1:text-is('{title}')")
        page.wait_for_load_state()
        page.evaluate("document.activeElement.blur()")
    page.wait_for_selector(".plot[data-state=drawn] canvas")
    keep_picture(page, "overview")  # the last page in a wide window: its plots have most points
    page.keyboard.press("?")
    page.wait_for_selector("dialog#help[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog#help:not([open])", state="attached")


def test_pages_fit_a_phone_and_the_dark(browser: "Browser", console: WebConsole) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    context.set_default_timeout(WAIT)
    page = context.new_page()
    page.goto(console.link("viewer"))
    for path in (
        "/",
        "/filters",
        "/sas",
        "/negotiations",
        "/policy",
        "/history",
        "/explain",
        "/timeline",
        "/journal",
    ):
        page.goto(console.url + path)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{path} is {wide} pixels too wide"
    page.goto(console.url)
    page.wait_for_selector(".plot[data-state=drawn] canvas")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, dark.removeprefix("rgb(").removesuffix(")").split(","))) < 200
    keep_picture(page, "phone")
    page.click("#theme")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert light == "rgb(255, 255, 255)"
    page.goto(console.url + "/sas")
    assert page.locator("button:text-is('Delete')").count() == 0, "a viewer is offered what operators may"
    context.close()


# ---- what is no honest request


def test_the_process_has_no_privileges(console: WebConsole) -> None:
    lines = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{console.pid}/status").read_text().splitlines()
        if ":" in line
    )
    assert set(lines["Uid"].split()) != {"0"}
    assert "0" not in lines["Uid"].split()
    assert int(lines["CapEff"], 16) == int(lines["CapPrm"], 16) == 0
    assert lines["NoNewPrivs"].strip() == "1"


def test_nobody_sees_a_page_without_signing_in(console: WebConsole) -> None:
    for path in ("/", "/filters", "/policy", "/series.json", "/journal"):
        status, text = console.ask("GET", path)
        assert (status, "location: /login" in text.lower()) == (303, True), path
    status, _ = console.ask("POST", "/sas/delete", f"peer={BETA}", Origin="http://127.0.0.1")
    assert status == 303


def test_a_link_is_good_once(console: WebConsole) -> None:
    printed = console.stockade("--format", "json", "web", "link", "--role", "operator")
    link = str(json.loads(printed)["link"])
    path = link[link.index("/link?") :]
    assert console.ask("GET", path)[0] == 303
    assert console.ask("GET", path)[0] == 403
    await_journal(
        console, lambda entry: entry["reason"] == "web-login-refused" and "used up" in str(entry["text"])
    )


@pytest.mark.parametrize(
    ("told", "status", "request_"),
    [
        ("a Host that is not ours", 421, {"target": "/", "host": "rebinding.example"}),
        ("a path that climbs out of its folder", 400, {"target": "/static/../../../etc/shadow"}),
        ("a path that climbs out of its folder", 400, {"target": "/static/%2e%2e/%2e%2e/etc/shadow"}),
        ("an address of more than 4096 bytes", 414, {"target": "/filters?q=" + "a" * 5000}),
        ("a method that no page has", 405, {"target": "/", "method": "DELETE"}),
    ],
)
def test_dishonest_requests_are_refused_and_told(
    console: WebConsole, told: str, status: int, request_: dict[str, str]
) -> None:
    words = {"method": "GET", **request_}
    method, target = words.pop("method"), words.pop("target")
    found, text = console.ask(method, target, **words)
    assert found == status, text
    assert "content-security-policy: default-src 'none'" in text.lower()
    await_journal(console, lambda entry: told in str(entry["text"]))


def test_the_policy_page_tells_guid_and_last_change_of_every_object(console: WebConsole) -> None:
    _, page = console.ask("GET", "/policy", Cookie=console.sign_in())
    tree = AgentClient(Paths.of(console.home).socket, timeout=60.0).get("/v1/policy")
    objects = list(tree["policies"])
    objects += [rule for policy in tree["policies"] for rule in policy["rules"]]
    objects += [
        rule[mark]
        for policy in tree["policies"]
        for rule in policy["rules"]
        for mark in ("filter_list_mark", "filter_action_mark")
        if rule[mark] is not None
    ]
    assert len(objects) > 3, "a policy, a rule, its filter list and its filter action"
    for one in objects:
        assert one["guid"] in page, one
        assert f'datetime="{one["modified"]}"' in page, one


def test_forms_need_their_token_and_their_own_page(console: WebConsole) -> None:
    cookie = console.sign_in()
    _, page = console.ask("GET", "/policy", Cookie=cookie)
    token = token_of(page)
    assert len(token) > 30
    assert console.ask("POST", "/policy/reload", "token=", Cookie=cookie)[0] == 403
    assert console.ask("POST", "/policy/reload", f"token={token}x", Cookie=cookie)[0] == 403
    await_journal(console, lambda entry: "a form without its token" in str(entry["text"]))
    foreign = {"Cookie": cookie, "Origin": "https://evil.example"}
    assert console.ask("POST", "/policy/reload", f"token={token}", **foreign)[0] == 403
    crossing = {"Cookie": cookie, "Sec_Fetch_Site": "cross-site"}
    assert console.ask("POST", "/policy/reload", f"token={token}", **crossing)[0] == 403
    await_journal(console, lambda entry: "a form from another site" in str(entry["text"]))
    assert console.ask("POST", "/policy/reload", f"token={token}", Cookie=cookie)[0] == 303
    await_journal(console, lambda entry: "policy read again" in str(entry["text"]))


def test_a_viewer_changes_nothing(console: WebConsole) -> None:
    cookie = console.sign_in("viewer")
    _, page = console.ask("GET", "/", Cookie=cookie)
    token = token_of(page)
    for path, form in (
        ("/sas/delete", f"peer={BETA}&"),
        ("/policy/reload", ""),
        ("/negotiations/record", ""),
    ):
        assert console.ask("POST", path, f"{form}token={token}", Cookie=cookie)[0] == 403, path
    await_journal(console, lambda entry: "a viewer asked for what operators may" in str(entry["text"]))


def test_large_and_broken_requests_end_at_once(console: WebConsole) -> None:
    form = "POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    assert console.exchange(f"{form}Content-Length: 99999999\r\n\r\n".encode())[0] == 413
    many = "&".join(f"f{number}=1" for number in range(200))
    assert console.ask("POST", "/login", many, Origin="http://127.0.0.1")[0] == 400
    head = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    assert console.exchange(head + b"X: " + b"a" * 100_000 + b"\r\n\r\n")[0] in (400, 431)
    assert console.exchange(b"\x16\x03\x01\x02\x00 this is no HTTP \r\n\r\n")[0] == 400
    assert console.exchange(head + b"Host: evil\r\nConnection: close\r\n\r\n")[0] in (400, 421)


def test_a_request_that_trickles_in_is_cut(console: WebConsole) -> None:
    assert console.slow is not None
    console.slow.settimeout(120)
    assert console.slow.recv(100) == b""
    await_journal(console, lambda entry: "took too long" in str(entry["text"]))


def test_guessing_a_password_is_slowed_down(console: WebConsole, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("correct horse battery\n")
    console.stockade("web", "user", "add", "ann", "--role", "viewer", "--password-file", str(secret))
    try:
        origin = {"Origin": "http://127.0.0.1"}
        status, text = console.ask("POST", "/login", "name=ann&password=correct+horse+battery", **origin)
        assert status == 303, text
        cookie = cookie_of(text)
        assert "HttpOnly" in text
        assert "samesite=strict" in text.lower()
        seen = [console.ask("POST", "/login", "name=ann&password=guess", **origin)[0] for _ in range(7)]
        assert seen[:5] == [403] * 5
        assert seen[5:] == [429] * 2
        # the right one has to wait as well, or the wait would tell which it is
        assert console.ask("POST", "/login", "name=ann&password=correct+horse+battery", **origin)[0] == 429
        entry = await_journal(console, lambda entry: "before its time" in str(entry["text"]))
        assert "guess" not in json.dumps(entry)
        assert console.ask("GET", "/", Cookie=cookie)[0] == 200
    finally:
        console.stockade("web", "user", "remove", "ann")
    status, _ = console.ask("GET", "/", Cookie=cookie)
    assert status == 303, "the session of an account that was removed goes on"
