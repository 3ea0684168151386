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
"""

from __future__ import annotations

from dropzone.optipub.client import OptiPub, Upload

__all__ = ["OptiPub", "Upload"]
