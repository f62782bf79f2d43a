"""TLS as an endpoint asks for it, the same for every engine."""

from __future__ import annotations

import ssl

from pytest_capacity.load.refresh import TargetUnavailable
from pytest_capacity.protocols import Endpoint


def tls_context(endpoint: Endpoint) -> ssl.SSLContext | None:
    """The context for an https endpoint, None for http.

    Raises TargetUnavailable where a certificate or key cannot be read; it names the file, never its content.
    """
    if endpoint.scheme != "https":
        return None
    try:
        context = ssl.create_default_context(cafile=endpoint.ca_file)
        if endpoint.cert_file is not None:
            context.load_cert_chain(endpoint.cert_file, endpoint.key_file)
    except (OSError, ssl.SSLError) as error:
        files = [f for f in (endpoint.ca_file, endpoint.cert_file, endpoint.key_file) if f is not None]
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or "not valid PEM"
        raise TargetUnavailable(
            f"TLS: {' or '.join(files)} cannot be used ({reason}); no load was sent"
        ) from error
    if not endpoint.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
