"""A whole server in process with a real mail server beside it, and what people do with letters."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from comity.app import build
from comity.config import loads, signing_key
from comity.net.smtp import SmtpMail
from comity.ports import NOBODY, Outbound, Ports
from tests.api.support_browser import Browser, Page
from tests.api.support_rooms import SERVER, Client, Network, NoResolver, Place, ask
from tests.api.support_users import Answer, InlineOffload, SeededEntropy, TurnedClock
from tests.engines import Pauses, url_of
from tests.mailbox import Mailbox, mail_server

CONFIRM, SUBMIT = "/_comity/email/confirm", "/_comity/email/submit"
FROM = "Example <noreply@example.org>"
CONFIGURATION = """
server_name = "{name}"
data_dir = "."
[database]
url = "{url}"
connections = 3
[passwords]
memory_kib = 8
iterations = 1
[federation]
enabled = false
[email]
smtp_url = "smtp://127.0.0.1:{port}"
from = "{sender}"
"""
OPEN = '[registration]\nenabled = true\nrequires = "nothing"\n'
UNLIMITED = "[rate_limits]\nenabled = false\n"


class MailPlace(Place):
    """A server and the letters that it has sent."""

    def __init__(self, place: Place, box: Mailbox) -> None:
        super().__init__(place.app, place.clock)
        self.box = box

    async def ask(
        self, method: str, path: str, body: object = None, token: str | None = None, **query: object
    ) -> Answer:
        """One request of somebody; `path` is of the client API v3 unless it begins with `/_`."""
        if not path.startswith("/_"):
            path = "/_matrix/client/v3" + path
        return await ask(self.app, method, path, body, query, token)

    async def request(
        self, kind: str, address: str, secret: str = "monkeys", attempt: int = 1, token: str | None = None,
        **more: object,
    ) -> Answer:  # fmt: skip
        """Ask for a letter: `register`, `account/3pid` or `account/password`."""
        body = {"client_secret": secret, "email": address, "send_attempt": attempt, **more}
        return await self.ask("POST", f"/{kind}/email/requestToken", body, token)

    def link(self, address: str) -> str:
        """The link in the last letter to an address."""
        (found,) = re.findall(rf"https://{SERVER}{CONFIRM}\S+", self.box.newest(address))
        return str(found)

    def code(self, address: str) -> str:
        """The code in the last letter to an address."""
        code = parse_qs(urlsplit(self.link(address)).query)["token"][0]
        assert code in self.box.newest(address).replace(self.link(address), "")
        return code

    async def confirm(self, address: str, browser: Browser | None = None) -> Page:
        """Open the link of the last letter to an address, and press the button."""
        browser = browser or Browser(self.app)
        page = await browser.get(self.link(address))
        assert page.status == 200, page.words
        return await browser.send(page, CONFIRM)

    async def proven(self, kind: str, address: str, secret: str = "monkeys", **more: Any) -> dict[str, str]:
        """Prove an address from the request to the button: the credentials."""
        sid = (await self.request(kind, address, secret, **more)).ok()["sid"]
        assert (await self.confirm(address)).status == 200
        return {"sid": sid, "client_secret": secret}

    async def add(self, client: Client, address: str) -> None:
        """Make an address that of a user's account."""
        credentials = await self.proven("account/3pid", address, f"secret-{len(address)}")
        body = {**credentials, "auth": {"type": "m.login.password", "password": "correct horse"}}
        (await client.ask("POST", "/account/3pid/add", body)).ok()

    async def addresses(self, client: Client) -> list[str]:
        """The addresses of a user's account."""
        found = (await client.ask("GET", "/account/3pid")).ok()["threepids"]
        assert all(each["medium"] == "email" for each in found)
        return [each["address"] for each in found]


@asynccontextmanager
async def mail_place(
    directory: Path,
    *,
    registration: str = OPEN,
    limits: str = UNLIMITED,
    settings: str = "",
    outbound: Outbound = NOBODY,
) -> AsyncIterator[MailPlace]:
    """A running server that sends letters to a mail server on loopback.

    The texts are parts of its configuration; `settings` comes last, in the section [email].
    """
    directory.mkdir(exist_ok=True)
    key = directory / "signing.key"
    if not key.exists():
        key.write_text(signing_key.render("a1", SeededEntropy(1).bytes(32)))
    async with mail_server() as box:
        text = CONFIGURATION.format(name=SERVER, url=url_of(directory), port=box.port, sender=FROM)
        config = loads(text + settings + "\n" + registration + limits, directory)
        assert config.email.smtp_url is not None
        mail = SmtpMail(config.email.smtp_url, FROM)
        await mail.open()
        clock = TurnedClock()
        ports = Ports(
            clock, SeededEntropy(1), Network(), NoResolver(), InlineOffload(), Pauses(), outbound, mail
        )
        app = build(config, ports)
        await app.start()
        try:
            yield MailPlace(Place(app, clock), box)
        finally:
            await app.stop()
            await mail.close()
