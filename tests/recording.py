"""Which tests were served what: for docs/spec-status.md, where COMITY_RECORD_SERVED names a file.

It looks on and changes nothing: requests are noted on their way into the router.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from comity.api.router import Router
from comity.ports import Request, Response

#: The environment variable; each process of a run adds its lines to the file that it names.
VARIABLE = "COMITY_RECORD_SERVED"
#: (method, template of the route, file of the test).
_served: set[tuple[str, str, str]] = set()


def begin() -> None:
    """Note what every router of this process serves from now on."""
    handle = Router.handle

    async def noted(router: Router, request: Request) -> Response:
        template = router.template_of(request.method, request.path)
        if template is not None:
            test = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0]
            _served.add((request.method, template, test))
        return await handle(router, request)

    setattr(Router, "handle", noted)  # noqa: B010 - an assignment is what mypy would not have


def end(path: Path) -> None:
    """Add what was noted to a file: method, template and test, separated by blanks."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{' '.join(line)}\n" for line in sorted(_served))


def read(lines: Iterable[str]) -> set[tuple[str, str, str]]:
    """What `end` wrote, in however many processes; what no test asked for is left out."""
    parts = (line.split() for line in lines)
    return {(part[0], part[1], part[2]) for part in parts if len(part) == 3}
