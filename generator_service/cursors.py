"""Cursors: where the next page of an answer begins, signed by the service.

A cursor is base64url of a signature and of the position with all that decides the rows. Its content
is no secret. The signature shows that a service with the same key wrote it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING

from generator_service.models import FieldError, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SIGNATURE_BYTES = 16
_UNKNOWN = (
    "the cursor of an answer, unchanged, or none to begin at the first row; services that share a"
    " GENERATOR_CURSOR_KEY read each other's, also after a restart"
)


class Cursors:
    """Writes and reads cursors.

    Args:
        key: signs them; None is a random key, so that no other process can read them.
    """

    def __init__(self, key: bytes | None) -> None:
        # A digest: BLAKE2 takes keys of at most 64 bytes.
        self._key = hashlib.sha256(secrets.token_bytes() if key is None else key).digest()

    def write(self, position: int, answer: Mapping[str, str]) -> str:
        """Return the cursor of a position in an answer.

        `answer` has everything that decides its rows: route, window, as_of, configuration and more.
        """
        fields = {"position": position, **answer}
        return self._signed(json.dumps(fields, separators=(",", ":")).encode())

    def read(self, cursor: str, answer: Mapping[str, str], rows: int) -> int:
        """Return the position of a cursor: after the first row, and before the end of `rows`.

        Raises:
            RequestError: it is not a cursor of the service, or is one of another answer (400).
        """
        expected = _UNKNOWN
        try:
            raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
            content = raw[_SIGNATURE_BYTES:]
            # Compared as text: base64 has several spellings of the same bytes.
            if hmac.compare_digest(cursor.encode(), self._signed(content).encode()):
                fields = json.loads(content)
                position = fields["position"]
                others = [name for name in answer if fields[name] != answer[name]]
                if not others and 0 < position < rows:
                    return position
                if others:
                    name = others[0]
                    expected = (
                        f"a cursor of this {name}, {answer[name]}; this one is of {fields[name]}"
                    )
        except (ValueError, KeyError):
            pass
        error = FieldError(field="cursor", given=cursor, expected=expected)
        raise RequestError(HTTPStatus.BAD_REQUEST, error)

    def _signed(self, content: bytes) -> str:
        signature = hashlib.blake2b(content, digest_size=_SIGNATURE_BYTES, key=self._key).digest()
        return base64.urlsafe_b64encode(signature + content).decode().rstrip("=")
