"""What an operator may write, and what is said of what may not be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from comity.config import Config, ConfigError, documented_keys, load, loads
from comity.protocol.pacing import Rate

CONTRACT = """
server_name = "example.org"
data_dir = "/var/lib/comity"
[[listeners]]
bind = "127.0.0.1:8008"
serves = ["client", "federation"]
tls = false
[[listeners]]
bind = "[::1]:8448"
serves = ["federation"]
tls = true
[[listeners]]
bind = "unix:/run/comity.sock"
[tls]
certificate = "fullchain.pem"
private_key = "/keys/privkey.pem"
[database]
url = "sqlite:comity.db"
[registration]
enabled = true
requires = "nothing"
shared_secret = "very secret"
[rooms]
default_version = "11"
[rate_limits]
enabled = false
[federation]
enabled = false
trusted_ca = ["ca.pem"]
verify_certificates = false
allow_ranges = ["127.0.0.0/8", "fd00::/8", "10.1.2.3"]
trusted_key_servers = ["matrix.org", "[::1]:8448"]
[public]
client_base_url = "https://matrix.example.org/"
[log]
level = "debug"
[caches]
megabytes = 64
"""


#: A provider as it is written, to which a test adds.
OIDC = '[oidc.a]\nissuer = "https://a"\nclient_id = "b"\n'


def problems(text: str, *, named: bool = True) -> list[str]:
    """What is said of a configuration that is wrong; `named` gives it the one required key."""
    with pytest.raises(ConfigError) as caught:
        loads(('server_name = "example.org"\n' if named else "") + text, Path("/etc/comity"))
    return caught.value.problems


def the_problem(text: str) -> str:
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


def test_the_whole_contract() -> None:
    config = loads(CONTRACT, Path("/etc/comity"))
    assert config.server_name == "example.org"
    assert config.data_dir == Path("/var/lib/comity")
    assert config.database_file == Path("/var/lib/comity/comity.db")
    assert config.signing_key_file == Path("/var/lib/comity/signing.key")
    assert [listener.bind for listener in config.listeners] == [
        "127.0.0.1:8008",
        "[::1]:8448",
        "unix:/run/comity.sock",
    ]
    assert config.listeners[1].serves == frozenset({"federation"})
    assert [listener.tls for listener in config.listeners] == [False, True, False]
    assert config.tls is not None
    assert config.tls.certificate == Path("/etc/comity/fullchain.pem")
    assert config.tls.private_key == Path("/keys/privkey.pem")
    assert (config.registration.enabled, config.registration.requires) == (True, "nothing")
    assert config.registration.shared_secret == "very secret"
    assert config.rooms.default_version == "11"
    assert not config.rate_limits.enabled
    assert (config.federation.enabled, config.federation.verify_certificates) == (False, False)
    assert config.federation.trusted_ca == (Path("/etc/comity/ca.pem"),)
    assert config.federation.allow_ranges == ("127.0.0.0/8", "fd00::/8", "10.1.2.3/32")
    assert config.federation.trusted_key_servers == ("matrix.org", "[::1]:8448")
    assert config.public.client_base_url == "https://matrix.example.org"
    assert (config.log.level, config.caches.megabytes) == ("debug", 64)


def test_defaults_are_safe() -> None:
    config = loads('server_name = "example.org"', Path("/etc/comity"))
    assert config.data_dir == Path("/etc/comity/data")
    assert [(item.bind, item.serves, item.tls) for item in config.listeners] == [
        ("127.0.0.1:8008", frozenset({"client", "federation"}), False)
    ]
    assert config.tls is None
    assert config.database.url == "sqlite:comity.db"
    assert (config.registration.enabled, config.registration.requires) == (False, "token")
    assert config.registration.shared_secret is None
    assert config.rooms.default_version == "12"
    assert config.rate_limits.enabled
    assert config.federation.enabled
    assert config.federation.verify_certificates
    assert config.federation.allow_ranges == ()
    assert config.public.client_base_url is None


def test_secrets_are_not_shown() -> None:
    config = loads(CONTRACT, Path("/etc/comity"))
    assert "very secret" not in repr(config)
    assert "very secret" not in the_problem('registration = { shared_secret = ["very secret"] }')


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("server_nam = 1", "server_nam", "server_name"),
        ("[registration]\nenable = true", "registration.enable", "registration.enabled"),
        ('[registration]\nshared_secert = "x"', "registration.shared_secert", "registration.shared_secret"),
        ('shared_secret = "x"', "shared_secret", "registration.shared_secret"),
        ("[rate_limit]\nenabled = true", "rate_limit", "rate_limits"),
        ("[federaton]\nenabled = true", "federaton", "federation"),
        ('[federation]\nallowed_ranges = ["::1"]', "federation.allowed_ranges", "federation.allow_ranges"),
        ('[[listeners]]\nbinds = "x"', "listeners.binds", "listeners.bind"),
        ('[[listener]]\nbind = "127.0.0.1:1"', "listener", "listeners"),
        ('[log]\nlevle = "info"', "log.levle", "log.level"),
    ],
)
def test_an_unknown_key_names_the_nearest(text: str, key: str, nearest: str) -> None:
    assert the_problem(text) == f"{key}: there is no such key; the nearest is {nearest}"


def test_contacts_may_have_roles_of_ones_own() -> None:
    lost = "[[support.contacts]]\nrole = 'org.example.lost_and_found'\nemail_address = 'lost@example.org'\n"
    config = loads(f'server_name = "example.org"\n{lost}', Path("/etc/comity"))
    (contact,) = config.support.contacts
    assert (contact.role, contact.matrix_id) == ("org.example.lost_and_found", None)
    assert contact.email_address == "lost@example.org"


def test_an_unknown_key_that_resembles_none() -> None:
    assert the_problem("[log]\nxyzzy = 1") == "log.xyzzy: there is no such key; the keys here are log.level"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[rate_limits]\nenabled = "yes"',
            'rate_limits.enabled: found the text "yes", expected true or false',
        ),
        (
            "[rooms]\ndefault_version = 12",
            "rooms.default_version: found the whole number 12, expected one of",
        ),
        (
            '[rooms]\ndefault_version = "13"',
            'rooms.default_version: found the text "13", expected one of "1",',
        ),
        ('[registration]\nrequires = "captcha"', 'expected one of "token", "nothing"'),
        (
            "[registration]\nshared_secret = 5",
            "registration.shared_secret: found a whole number, expected text",
        ),
        ('[registration]\nshared_secret = ""', "to go without, leave the key out"),
        (
            "[support]\ncontacts = [{ matrix_id = '@a:b' }]",
            "support.contacts: found a table, expected a role",
        ),
        ("[support]\ncontacts = ['@a:b']", 'found the text "@a:b", expected contacts of a role'),
        (
            "[support]\ncontacts = [{ role = 'm.role.admin', phone = '1' }]",
            "found a table, expected contacts of a role, a matrix_id and an email_address",
        ),
        ("[support]\ncontacts = [{ role = 'M Admin', matrix_id = '@a:b' }]", "expected a role for each"),
        ("[support]\ncontacts = [{ role = 'm.role.admin' }]", "expected a matrix_id or an email_address"),
        (
            "[support]\ncontacts = [{ role = 'm.role.admin', matrix_id = 'a:b' }]",
            'found the text "a:b", expected a user id',
        ),
        (
            "[support]\ncontacts = [{ role = 'm.role.admin', email_address = 'nobody' }]",
            'found the text "nobody", expected an e-mail address',
        ),
        ("[support]\nsupport_page = 'example.org'", "support.support_page: found the text"),
        ("[support]\nsupport_page = 'javascript:x'", "support.support_page: found the text"),
        ("[support]\nsupport_page = 'https://[x'", "support.support_page: found the text"),
        ("data_dir = 1979-05-27", "data_dir: found a date or time, expected a path"),
        ("data_dir = 1.5", "data_dir: found the fraction 1.5, expected a path"),
        ('[database]\nurl = "mysql://u:hidden@h/db"', "database.url: found text, expected"),
        ('[database]\nurl = "sqlite:"', "database.url"),
        (
            '[[listeners]]\nbind = "8008"',
            'listeners.bind: found the text "8008", expected an address and port',
        ),
        ('[[listeners]]\nbind = "127.0.0.1:80080"', "listeners.bind"),
        ('[[listeners]]\nbind = "::1:8008"', "listeners.bind"),
        ('[[listeners]]\nbind = "[::g]:8008"', "listeners.bind"),
        ('[[listeners]]\nbind = "unix:"', "listeners.bind"),
        (
            "[[listeners]]\nserves = []",
            "listeners.serves: found a list, expected a list in square brackets, not",
        ),
        (
            '[[listeners]]\nserves = ["cleint"]',
            'listeners.serves: found the text "cleint", expected one of "client"',
        ),
        ('[[listeners]]\n[[listeners]]\nbind = "x"', "listeners[2].bind: found"),
        ('listeners = "127.0.0.1:8008"', "expected tables headed [[listeners]]"),
        ("[listeners]\ntls = true", "listeners: found a table, expected tables headed [[listeners]]"),
        ("rooms = 12", "rooms: found the whole number 12, expected a table, headed [rooms]"),
        ("[[rooms]]", "rooms: found a list, expected a table, headed [rooms]"),
        ("[[listeners]]\ntls = true", "listeners.tls: true needs a [tls] section"),
        ('[tls]\ncertificate = "x"', "tls.private_key: missing; write for example private_key ="),
        ('[[listeners]]\n[[listeners]]\nbind = "127.0.0.1:8008"', '"127.0.0.1:8008" is there more than once'),
        ('[federation]\nallow_ranges = "10.0.0.0/8"', "expected a list in square brackets"),
        (
            '[federation]\nallow_ranges = ["10.0.0.1/8"]',
            'found the text "10.0.0.1/8", expected networks such as',
        ),
        ("[federation]\nallow_ranges = [10]", "federation.allow_ranges: found the whole number 10"),
        ('[federation]\ntrusted_key_servers = ["a b"]', "expected a server name"),
        ('[public]\nclient_base_url = "matrix.example.org"', "public.client_base_url: found the text"),
        ('[public]\nclient_base_url = "https://"', "expected a URL such as"),
        ('[public]\nclient_base_url = "https://[::1"', "expected a URL such as"),
        ('[public]\nclient_base_url = "https://a:99999"', "expected a URL such as"),
        ('[public]\nclient_base_url = "https://u:p@a/?q"', "expected a URL such as"),
        (
            "[caches]\nmegabytes = 1",
            "caches.megabytes: found the whole number 1, expected a whole number from 16",
        ),
        ("[caches]\nmegabytes = true", "caches.megabytes: found true, expected a whole number"),
        ('[oidc]\nissuer = "https://a"', "oidc: found a table, expected tables, headed [oidc.NAME]"),
        ('[oidc."a b"]\nissuer = "https://a"\nclient_id = "b"', 'oidc: "a b" is no name for a section'),
        ('[oidc.a]\nclient_id = "c"', "oidc.a.issuer: missing; write for example issuer ="),
        (OIDC + 'scope = ["x"]', "oidc.a.scope: there is no such key; the nearest is oidc.NAME.scopes"),
        ('[oidc.a]\nclient_id = "c"\nissuer = "http://a"', "oidc.a.issuer: found the text"),
        (
            '[oidc.a]\nclient_id = "c"\nissuer = "https://u@a"',
            "expected an https URL without query or fragment",
        ),
        (
            '[oidc.a]\nclient_id = "c"\nissuer = "https://a?x"',
            "expected an https URL without query or fragment",
        ),
        (
            '[oidc.a]\nclient_id = "c"\nissuer = "https://a b"',
            "expected an https URL without query or fragment",
        ),
        (OIDC + "client_secret = 5", "oidc.a.client_secret: found a whole number, expected"),
        (OIDC + 'scopes = ["a b"]', "oidc.a.scopes: found the text"),
        (OIDC + 'brand = "Google"', 'expected a brand such as "google"'),
        (OIDC + 'icon = "https://a/b"', "expected an address such as"),
    ],
)
def test_a_wrong_value(text: str, said: str) -> None:
    problem = the_problem(text)
    assert said in problem
    assert "hidden" not in problem


def test_a_wrong_server_name() -> None:
    for value in ('"exa mple"', "5", '""', '"example.org:0"'):
        assert "server_name: found" in problems(f"server_name = {value}", named=False)[0]
    assert problems("", named=False) == [
        'server_name: missing; write for example server_name = "example.org"'
    ]


def test_everything_wrong_is_said_together() -> None:
    found = problems('data_dir = 3\nlog = { level = "loud" }\n[tls]\nzzz = 1\n')
    assert [problem.partition(":")[0] for problem in found] == [
        "data_dir",
        "tls.zzz",
        "tls.certificate",
        "tls.private_key",
        "log.level",
    ]


def test_what_is_no_toml() -> None:
    assert "line 2" in the_problem("x = = 1")


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "comity.toml"
    file.write_text('server_name = "example.org"\n')
    assert load(file).data_dir == tmp_path / "data"


def test_a_relative_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "comity.toml").write_text('server_name = "example.org"\n')
    monkeypatch.chdir(tmp_path)
    assert load(Path("comity.toml")).data_dir == tmp_path / "data"


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    huge = tmp_path / "huge"
    huge.touch()
    os.truncate(huge, 1 << 30)
    for path, said in (
        (tmp_path / "none", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (binary, "not a text file in UTF-8"),
        (huge, "larger than"),
    ):
        with pytest.raises(ConfigError, match=said):
            load(path)


def test_a_limit_keeps_what_is_left_out() -> None:
    text = 'server_name = "example.org"\n[rate_limits]\njoins = { burst = 5 }\n'
    config = loads(text + "[rate_limits.messages]\nper_second = 0.25\n", Path("/"))
    assert config.rate_limits.messages == Rate(0.25, 50)
    assert config.rate_limits.joins == Rate(0.5, 5)


@pytest.mark.parametrize(
    "written",
    ["5", '"often"', "{ per_second = 0 }", "{ burst = 0.5 }", "{ burst = true }", "{ often = 1 }",
     "{ per_second = inf }", "{ per_second = nan }"],
)  # fmt: skip
def test_what_is_no_limit(written: str) -> None:
    with pytest.raises(ConfigError, match=r"rate_limits\.messages: found .*expected a table of per_second"):
        loads(f'server_name = "example.org"\n[rate_limits]\nmessages = {written}\n', Path("/"))


def test_sections_that_the_operator_names() -> None:
    provider = '[oidc.{}]\nissuer = "https://accounts.example.com/"\nclient_id = "comity"\n'
    config = loads('server_name = "a.org"\n' + provider.format("one") + provider.format("Two_2"), Path("/"))
    assert list(config.oidc) == ["one", "Two_2"]
    one = config.oidc["one"]
    # As it is written: an issuer is compared with what the provider says, letter by letter.
    assert (one.issuer, one.client_id, one.register) == ("https://accounts.example.com/", "comity", True)
    assert not loads('server_name = "a.org"', Path("/")).oidc
    many = "".join(provider.format(f"p{number}") for number in range(51))
    with pytest.raises(ConfigError, match="50 at most"):
        loads('server_name = "a.org"\n' + many, Path("/"))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:8080"])
def test_an_issuer_on_this_machine(host: str) -> None:
    text = f'server_name = "a.org"\n[oidc.a]\nissuer = "http://{host}"\nclient_id = "comity"\n'
    assert loads(text, Path("/")).oidc["a"].issuer == f"http://{host}"


def test_every_key_is_explained() -> None:
    for key in documented_keys():
        assert key.meaning.endswith("."), key.full_name
        assert key.default is not None or key.example is not None, key.full_name


def test_the_tree_is_frozen() -> None:
    config: Config = loads('server_name = "example.org"', Path("/"))
    with pytest.raises(AttributeError):
        config.server_name = "other"  # type: ignore[misc]


# -- e-mail and terms


def contact(text: str) -> Config:
    return loads(f'server_name = "example.org"\n{text}', Path("/"))


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://localhost", ("none", "localhost", 25, None, None)),
        ("smtp://me:pw@127.0.0.1:2525/", ("none", "127.0.0.1", 2525, "me", "pw")),
        ("smtps://me%40a.org:a%3Ab@mail.a.org", ("tls", "mail.a.org", 465, "me@a.org", "a:b")),
        ("smtp+starttls://mail.example.org", ("starttls", "mail.example.org", 587, None, None)),
    ],
)  # fmt: skip
def test_where_letters_are_handed_over(url: str, server: tuple[object, ...]) -> None:
    config = contact(f'[email]\nsmtp_url = "{url}"\nfrom = "Example <noreply@example.org>"')
    found = config.email.smtp_url
    assert found is not None and config.email.sender == "Example <noreply@example.org>"
    assert (found.security, found.host, found.port, found.user, found.password) == server
    assert found.password is None or found.password not in repr(config)


@pytest.mark.parametrize(
    "url",
    ["mail.example.org", "http://mail.example.org", "smtp://", "smtp://a:0", "smtp://a:70000", "smtps://a/b",
     "smtps://user@a", "smtp://user:hunter2@mail.example.org", "smtps://a?b=c"],
)  # fmt: skip
def test_what_is_no_mail_server(url: str) -> None:
    with pytest.raises(ConfigError, match=r"email\.smtp_url: found text, expected") as raised:
        contact(f'[email]\nsmtp_url = "{url}"\nfrom = "a@example.org"')
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("sender", ["nobody", "a b@example.org, c@d", "ä@example.org", ""])
def test_who_cannot_send(sender: str) -> None:
    with pytest.raises(ConfigError, match=r"email\.from: found"):
        contact(f'[email]\nfrom = "{sender}"')


def test_what_email_needs() -> None:
    with pytest.raises(ConfigError, match=r"email\.smtp_url: needs from"):
        contact('[email]\nsmtp_url = "smtp://localhost"')
    with pytest.raises(ConfigError, match=r"registration\.requires_email: true needs"):
        contact("[registration]\nrequires_email = true")
    with pytest.raises(ConfigError, match=r"the nearest is email\.from"):
        contact('[email]\nform = "a@example.org"')


def test_policies() -> None:
    config = contact(
        """
        [[terms.policies]]
        id = "privacy_policy"
        version = "1.2"
        en = { name = "Privacy Policy", url = "https://example.org/privacy-en.html" }
        pt-BR = { name = "Política", url = "https://example.org/privacy-pt.html" }
        """
    )
    (policy,) = config.terms.policies
    assert policy.identifier == "privacy_policy"
    assert policy.told() == {
        "version": "1.2",
        "en": {"name": "Privacy Policy", "url": "https://example.org/privacy-en.html"},
        "pt-BR": {"name": "Política", "url": "https://example.org/privacy-pt.html"},
    }


@pytest.mark.parametrize(
    "policies",
    ['["privacy"]', '[{ id = "a", version = "1" }]', '[{ id = "a b", version = "1", en = DOCUMENT }]',
     '[{ version = "1", en = DOCUMENT }]', '[{ id = "a", version = 1, en = DOCUMENT }]',
     '[{ id = "a", version = "1", "e n" = DOCUMENT }]', '[{ id = "a", version = "1", en = { name = "A" } }]',
     '[{ id = "a", version = "1", en = { name = "A", url = "javascript:alert(1)" } }]',
     '[{ id = "a", version = "1", en = DOCUMENT }, { id = "a", version = "2", en = DOCUMENT }]'],
)  # fmt: skip
def test_what_is_no_policy(policies: str) -> None:
    written = policies.replace("DOCUMENT", '{ name = "A", url = "https://example.org/a" }')
    with pytest.raises(ConfigError, match=r"terms\.policies: found"):
        contact(f"[terms]\npolicies = {written}")
