"""Finding an identifier in texts and in bytes, plain or encoded.

A mention is the identifier as a whole: no letter or digit before or after it, so that P-1 is not
found in P-12. Case and Unicode normal form do not matter. Bytes are read as UTF-8, Latin-1 and
UTF-16; in all of these also through JSON, HTML and URL escapes and doubled quotes, and, for
identifiers of four characters or more, through hexadecimal and base64; gzip, zlib and Zstandard
are unpacked. Then the identifier is looked for as any of Python's text encodings writes it.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
import zlib
from collections.abc import Iterator
from encodings.aliases import aliases
from urllib.parse import unquote_to_bytes

import zstandard

#: A short identifier is found by chance in what only looks encoded.
_ENCODED_FROM = 4

#: Encodings within encodings that are looked through.
_DEPTH = 3

_UNPACKED_BYTES = 64 * 1024 * 1024
_JSON_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}){4,}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{6,}")


#: Encodings that do not write the same bytes at every place: a mark first, or shifts between.
_MOVING = re.compile(r"utf_?7|utf_?(16|32)|utf_?8_sig|iso2022.*|hz")

#: By how many bytes a text may begin late, where characters have more than one.
_UNITS = {"utf_16_be": 2, "utf_16_le": 2, "utf_32_be": 4, "utf_32_le": 4}


class Mentions:
    """Answers whether a text or bytes mention one identifier. Its repr does not.

    Of an identifier that is gone (None) nothing is a mention.
    """

    def __init__(self, identifier: str | None) -> None:
        self.identifier = identifier
        if identifier is None:
            self._whole, self._anywhere = re.compile(r"(?!)"), "\0"
            self._encoded, self._written = False, dict[str, set[bytes]]()
            return
        folded = re.escape(_folded(identifier))
        self._whole = re.compile(rf"(?<![^\W_]){folded}(?![^\W_])")
        self._anywhere = _folded(identifier)
        self._encoded = len(identifier) >= _ENCODED_FROM
        self._written = _written(identifier)

    def __repr__(self) -> str:
        return "Mentions(...)"

    def within(self, key: str) -> bool:
        """Return whether `key` holds the identifier anywhere, also as a part of a word."""
        return self._anywhere in _folded(key)

    def in_text(self, text: str, _depth: int = _DEPTH) -> bool:
        """Return whether `text` mentions the identifier, plain or encoded."""
        if self._whole.search(_folded(text)):
            return True
        if not _depth:
            return False
        return any(self.in_text(each, _depth - 1) for each in _unescaped(text)) or (
            self._encoded and any(self.in_bytes(each, _depth - 1) for each in _decoded(text))
        )

    def in_bytes(self, raw: bytes, _depth: int = _DEPTH) -> bool:
        """Return whether bytes mention the identifier, in any of the forms above."""
        if any(self.in_text(text, _depth) for text in _texts(raw)):
            return True
        if any(self._whole.search(_folded(text)) for text in self._in_encodings(raw)):
            return True
        return _depth > 0 and any(self.in_bytes(each, _depth - 1) for each in _unpacked(raw))

    def _in_encodings(self, raw: bytes) -> Iterator[str]:
        """Yield what bytes say in the encodings in which they hold the identifier."""
        for encoding, forms in self._written.items():
            unit = _UNITS.get(encoding, 1)
            starts = {raw.find(form) % unit for form in forms if form in raw}
            for text in (raw[start:].decode(encoding, "replace") for start in starts):
                yield text
                yield from _unescaped(text)
        if b"+" in raw:
            yield raw.decode("utf-7", "replace")


def _written(identifier: str) -> dict[str, set[bytes]]:
    """Return the bytes that encodings write for an identifier, in either case."""
    cases = {identifier, identifier.lower(), identifier.upper()}
    cases |= {each.replace('"', '""') for each in cases}
    found: dict[str, set[bytes]] = {}
    for encoding in sorted({*aliases.values()}):
        try:
            if _MOVING.fullmatch(encoding):
                continue
            forms = {each.encode(encoding) for each in cases}
        except (UnicodeError, LookupError):
            continue
        if forms not in found.values():
            found[encoding] = forms
    return found


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _texts(raw: bytes) -> Iterator[str]:
    try:
        yield raw.decode("utf-8")
    except UnicodeDecodeError:
        yield raw.decode("latin-1")
        yield raw.decode("utf-8", "ignore")
    if b"\0" in raw:
        for start in (0, 1):
            part = raw[start : len(raw) - (len(raw) - start) % 2]
            yield part.decode("utf-16-le", "replace")
            yield part.decode("utf-16-be", "replace")


def _unescaped(text: str) -> Iterator[str]:
    if "\\u" in text:
        units = _JSON_ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
        yield units.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if '""' in text or '\\"' in text:
        yield text.replace('""', '"').replace('\\"', '"')
    if "&" in text and (plain := html.unescape(text)) != text:
        yield plain
    if "%" in text:
        yield unquote_to_bytes(text.encode("utf-8", "replace")).decode("utf-8", "replace")


def _decoded(text: str) -> Iterator[bytes]:
    for found in _HEX.finditer(text):
        yield bytes.fromhex(found[0])
    for found in _BASE64.finditer(text):
        word = found[0].replace("-", "+").replace("_", "/")
        for start in range(4):  # a run may begin before its base64 does
            part = word[start : len(word) - (len(word) - start) % 4]
            rest = word[len(part) + start :]
            padded = part + (rest + "=" * (4 - len(rest)) if len(rest) > 1 else "")
            try:
                yield base64.b64decode(padded)
            except binascii.Error:
                continue


def _unpacked(raw: bytes) -> Iterator[bytes]:
    try:
        if raw[:2] == b"\x1f\x8b":
            yield zlib.decompressobj(31).decompress(raw, _UNPACKED_BYTES)
        elif raw[:1] == b"\x78":
            yield zlib.decompressobj().decompress(raw, _UNPACKED_BYTES)
        elif raw[:4] == b"\x28\xb5\x2f\xfd":
            with zstandard.ZstdDecompressor().stream_reader(raw) as reader:
                yield reader.read(_UNPACKED_BYTES)
    except (zlib.error, zstandard.ZstdError):
        return
