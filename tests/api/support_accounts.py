"""What tests of accounts that end have in common."""

from __future__ import annotations

from tests.api.support_rooms import Client


async def deactivate(client: Client, *, erase: bool = False) -> None:
    """End a user's account, as its user does."""
    body: dict[str, object] = {"erase": erase}
    asked = await client.ask("POST", "/account/deactivate", body)
    auth = {
        "type": "m.login.password",
        "session": asked.body["session"],
        "identifier": {"type": "m.id.user", "user": client.user_id},
        "password": "correct horse",
    }
    (await client.ask("POST", "/account/deactivate", {**body, "auth": auth})).ok()
