"""The HTTP contract with OptiPub: build one import request, offer it once, read the answer, name the event.

    OptiPub(account).build(drop, folder, payload, size)   everything that may fail before a byte leaves
    Upload.send()                                         Accepted | Refused | Deferred | Lost

It alone knows the endpoint (`client`), the parts of the form (`form`) and what each answer means (`answers`); it knows
no ledger, no retry loop and no policy for unknown outcomes. What it keeps to:

- No kind of exception tells "never arrived" from "answer lost": the same `RemoteProtocolError` comes for both. What
  tells is whether the request left completely, so that is what decides, not the exception.
- No redirect is followed, no proxy comes from the environment, no cookie is kept. The key goes to the configured
  origin only, and into no event, message or `repr`.
- Certificates are always verified; there is no switch.

The client is imported when it is first asked for: what an import would say (`form`) can be told without httpx.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dropzone.optipub.client import OptiPub, Upload

__all__ = ["OptiPub", "Upload"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("dropzone.optipub.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
