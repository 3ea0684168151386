"""Whom an account trusts: the certificates by which its server is known. There is no switch to turn that off."""

from __future__ import annotations

import ssl

from dropzone.config import Account
from dropzone.errors import DropzoneError, printable


def tls_context(account: Account) -> ssl.SSLContext:
    """How connections of `account` are secured. Raises `DropzoneError`."""
    if account.proxy and not account.base_url.startswith("https:"):
        message = f"account {account.name} has a proxy, and a base_url that is not https: the proxy would see the key"
        raise DropzoneError(message, "Remove proxy: from the account, or use https")
    # Not create_default_context(): it writes the session's secrets to where SSLKEYLOGFILE points, and from Python 3.13
    # on refuses private authorities for a missing extension. The machine's own authorities, not certifi's: these are
    # kept current by the distribution through the years that the daemon runs.
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.load_default_certs()
    if account.ca_file is not None:
        try:
            tls.load_verify_locations(cafile=account.ca_file)
        except OSError as error:  # ssl.SSLError is one
            message = f"the ca_file {printable(str(account.ca_file))} of account {account.name} cannot be used"
            why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            raise DropzoneError(f"{message}: {why}", "It must be a readable file of PEM certificates") from error
    return tls
