"""Sign-in through other providers, by OpenID Connect: `SingleSignOn` (in `signing_in`) is the way in."""

from __future__ import annotations
