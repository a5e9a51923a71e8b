"""Addresses of accounts (client-server §Adding Account Administrative Contact Information).

And every request for a letter that proves one, whatever for (…/requestToken).
"""

from __future__ import annotations

from comity.api.address import client_address
from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.users.password_resets import PasswordResets
from comity.users.registration import Registration
from comity.users.third_party_ids import ThirdPartyIds
from comity.users.validation import SUBMIT_PATH, Validations, no_messages_to_phones


def routes(router: Router, guard: Guard, third_party_ids: ThirdPartyIds) -> None:
    """Add the routes for the addresses of one's own account."""

    async def listed(call: Call) -> Response:
        return json_response({"threepids": await third_party_ids.all(call.requester.user_id)})

    async def add_or_bind(call: Call) -> Response:
        await third_party_ids.add_or_bind(call.requester.user_id, call.json())
        return json_response({})

    async def add(call: Call) -> Response:
        await third_party_ids.add(call.requester.user_id, call.json(), call.json())
        return json_response({})

    async def bind(call: Call) -> Response:
        await third_party_ids.bind(call.requester.user_id, call.json())
        return json_response({})

    async def delete(call: Call) -> Response:
        result = await third_party_ids.delete(call.requester.user_id, call.json())
        return json_response({"id_server_unbind_result": result})

    async def unbind(call: Call) -> Response:
        result = await third_party_ids.unbind(call.requester.user_id, call.json())
        return json_response({"id_server_unbind_result": result})

    add_classic(router, "GET", "/account/3pid", listed, guard)
    add_classic(router, "POST", "/account/3pid", add_or_bind, guard)
    add_classic(router, "POST", "/account/3pid/add", add, guard)
    add_classic(router, "POST", "/account/3pid/bind", bind, guard)
    add_classic(router, "POST", "/account/3pid/delete", delete, guard)
    add_classic(router, "POST", "/account/3pid/unbind", unbind, guard)


def validation_routes(
    router: Router,
    anybody: Guard,
    visitors: Guard,
    registration: Registration,
    third_party_ids: ThirdPartyIds,
    resets: PasswordResets,
    validations: Validations,
) -> None:
    """Add the routes that begin and end the proof of an address."""

    async def to_register(call: Call) -> Response:
        return json_response(await registration.request_token(call.json(), client_address(call.request)))

    async def to_add(call: Call) -> Response:
        user_id = call.user.user_id if call.user else None
        told = await third_party_ids.request_token(call.json(), client_address(call.request), user_id)
        return json_response(told)

    async def to_reset(call: Call) -> Response:
        return json_response(await resets.request_token(call.json(), client_address(call.request)))

    async def by_phone(call: Call) -> Response:
        raise no_messages_to_phones()

    async def submit(call: Call) -> Response:
        sid, token = call.field("sid", str), call.field("token", str)
        secret = call.field("client_secret", str)
        await validations.submit(sid, token, secret, client_address(call.request))
        return json_response({"success": True})

    add_classic(router, "POST", "/register/email/requestToken", to_register, visitors)
    add_classic(router, "POST", "/account/3pid/email/requestToken", to_add, anybody)
    add_classic(router, "POST", "/account/password/email/requestToken", to_reset, visitors)
    for path in ("/register", "/account/3pid", "/account/password"):
        add_classic(router, "POST", f"{path}/msisdn/requestToken", by_phone, visitors)
    router.add("POST", SUBMIT_PATH, submit, guard=visitors)
