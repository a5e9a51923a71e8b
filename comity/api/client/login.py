"""Login, new tokens, tokens for other apps (client-server §Login, §Refreshing access tokens)."""

from __future__ import annotations

from comity.api.address import client_address
from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.config import Config
from comity.ports import Response
from comity.users.login import Login
from comity.users.login_tokens import LoginTokens
from comity.users.refreshing import Refreshing
from comity.users.sessions import Opened


def login_answer(config: Config, opened: Opened) -> dict[str, object]:
    """The body of a login's answer."""
    answer: dict[str, object] = {
        "user_id": opened.user_id,
        **opened.tokens(),
        "device_id": opened.device_id,
        # Deprecated; COMPAT: clients of r0 look for it.
        "home_server": config.server_name,
    }
    if config.public.client_base_url is not None:
        answer["well_known"] = {"m.homeserver": {"base_url": config.public.client_base_url}}
    return answer


def routes(
    router: Router,
    guard: Guard,
    visitors: Guard,
    config: Config,
    login: Login,
    refreshing: Refreshing,
    login_tokens: LoginTokens,
) -> None:
    """Add the routes; `visitors` is the guard of what is asked before there is an account."""

    async def flows(call: Call) -> Response:
        return json_response({"flows": login.flows()})

    async def log_in(call: Call) -> Response:
        opened = await login.log_in(call.json(), client_address(call.request))
        return json_response(login_answer(config, opened))

    async def refresh(call: Call) -> Response:
        return json_response((await refreshing.refresh(call.json(), client_address(call.request))).tokens())

    async def get_token(call: Call) -> Response:
        return json_response(await login_tokens.give(call.requester.user_id, call.json_or_empty()))

    add_classic(router, "GET", "/login", flows, visitors)
    add_classic(router, "POST", "/login", log_in, None)
    # Neither is older than v3 and v1.
    router.add("POST", "/_matrix/client/v3/refresh", refresh, guard=None)
    router.add("POST", "/_matrix/client/v1/login/get_token", get_token, guard=guard)
