"""Push rules and pushers (client-server §Push Notifications).

Nothing is pushed yet: there are no pushers, and setting one is refused.
"""

from __future__ import annotations

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.protocol.errors import MatrixError, missing_param
from comity.users.push import PushRules


def routes(router: Router, guard: Guard, push_rules: PushRules) -> None:
    """Add the routes of this family."""

    async def get_all(call: Call) -> Response:
        return json_response({"global": await push_rules.all(call.requester.user_id)})

    async def get_global(call: Call) -> Response:
        return json_response(await push_rules.all(call.requester.user_id))

    async def get(call: Call) -> Response:
        return json_response(await push_rules.get(*_rule(call)))

    async def put(call: Call) -> Response:
        before, after = call.query("before"), call.query("after")
        await push_rules.put(*_rule(call), call.json(), before=before, after=after)
        return json_response({})

    async def delete(call: Call) -> Response:
        await push_rules.delete(*_rule(call))
        return json_response({})

    async def get_enabled(call: Call) -> Response:
        return json_response({"enabled": (await push_rules.get(*_rule(call)))["enabled"]})

    async def put_enabled(call: Call) -> Response:
        await push_rules.set_enabled(*_rule(call), call.json().get("enabled"))
        return json_response({})

    async def get_actions(call: Call) -> Response:
        return json_response({"actions": (await push_rules.get(*_rule(call)))["actions"]})

    async def put_actions(call: Call) -> Response:
        await push_rules.set_actions(*_rule(call), call.json().get("actions"))
        return json_response({})

    async def pushers(call: Call) -> Response:
        return json_response({"pushers": []})

    async def set_pusher(call: Call) -> Response:
        body = call.json()
        if "kind" not in body:
            raise missing_param("The request body lacks kind")
        if body["kind"] is None:
            return json_response({})  # to delete a pusher that is not there is to have deleted it
        raise MatrixError(400, "M_UNRECOGNIZED", "This server does not send push notifications yet")

    rule = "/pushrules/global/{kind}/{ruleId}"
    add_classic(router, "GET", "/pushrules", get_all, guard)
    add_classic(router, "GET", "/pushrules/global", get_global, guard)
    add_classic(router, "GET", rule, get, guard)
    add_classic(router, "PUT", rule, put, guard)
    add_classic(router, "DELETE", rule, delete, guard)
    add_classic(router, "GET", rule + "/enabled", get_enabled, guard)
    add_classic(router, "PUT", rule + "/enabled", put_enabled, guard)
    add_classic(router, "GET", rule + "/actions", get_actions, guard)
    add_classic(router, "PUT", rule + "/actions", put_actions, guard)
    add_classic(router, "GET", "/pushers", pushers, guard)
    add_classic(router, "POST", "/pushers/set", set_pusher, guard)


def _rule(call: Call) -> tuple[str, str, str]:
    return call.requester.user_id, call.parameters["kind"], call.parameters["ruleId"]
