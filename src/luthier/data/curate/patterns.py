"""What private things look like: text -> Finding. Rules only, each with its checksum or its context where shape alone
would find too much; what phone numbers look like is in private.py.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from luthier.data.curate import hints


class Finding(NamedTuple):
    """A private thing in a text."""

    kind: str
    start: int
    end: int
    """text[start:end] is replaced."""
    value: str
    """Written one way: the same thing is the same value."""


URL = re.compile(r"\b(?:https?|ftp|wss?)://[^\s<>\"'`]+", re.I)
CARD_WORDS = re.compile(r"card|visa|master|amex|credit|debit|payment|\bpan\b|\bcc\b", re.I)


def keys(text: str) -> Iterator[Finding]:
    """Private keys, tokens by the prefixes their issuers give them, passwords in links and in assignments."""
    for found in PEM.finditer(text) if "PRIVATE KEY" in text else ():
        yield Finding("key", found.start(), found.end(), found[0])
    for found in TOKEN.finditer(text) if hints.token(text) else ():
        yield Finding("key", found.start(), found.end(), found[0])
    for found in CREDENTIALS.finditer(text) if "@" in text and "://" in text else ():
        if found["secret"] not in {"password", "pass", "pwd", "token", "secret", "***", "xxx"}:
            yield Finding("key", found.start("login"), found.end("login"), found["login"])
    for found in ASSIGNED.finditer(text) if hints.assigned(text) else ():
        value = found["value"].rstrip(".,;:!?)]}\"'`")
        if is_random(value):
            yield Finding("key", found.start("value"), found.start("value") + len(value), value)


PEM = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
    r"(?:.{0,20000}?-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|[A-Za-z0-9+/=\s]{0,20000})",
    re.S,
)
TOKEN = re.compile(
    r"(?<![A-Za-z0-9_])(?:"
    r"(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}(?![A-Z0-9])"
    r"|gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{22,255}|glpat-[A-Za-z0-9_-]{20,255}"
    r"|sk-(?:(?:proj|ant|or|svcacct|admin)-)?(?=[A-Za-z0-9_-]{0,60}\d)(?=[A-Za-z0-9_-]{0,60}[A-Z])[A-Za-z0-9_-]{20,255}"
    r"|xox[abeoprs](?:-[A-Za-z0-9]{2,}){2,}|xapp-[A-Za-z0-9-]{20,}|hooks\.slack\.com/services/T\w+/B\w+/\w{16,}"
    r"|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|pypi-AgEI[A-Za-z0-9_-]{40,}"
    r"|(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{30,}|SK[0-9a-f]{32}|AC[0-9a-f]{32}"
    r"|dop_v1_[0-9a-f]{64}|shpat_[0-9a-fA-F]{32}|(?<!/)eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    r")"
)
CREDENTIALS = re.compile(
    r"[a-z][a-z0-9+.-]{1,15}://(?P<login>[^\s/:@\[\]<>{}$%]{1,80}:(?P<secret>[^\s/@\[\]<>{}$]{3,120}))@", re.I
)
ASSIGNED = re.compile(
    r"(?<![A-Za-z])(?:pass(?:word|wd|phrase)?|pwd|secret|token|credential|"
    r"(?:api|access|auth|private|secret|account)[_ -]?key|authorization|"
    r"bearer)\b[\"'`]?\s{0,3}(?:(?:is|was)\s+|[:=]>?\s{0,3}(?:bearer\s+|basic\s+)?)[\"'`]?"
    r"(?P<value>[^\s\"'`<>{}$\[\],;|]{8,200})",
    re.I,
)


def is_random(value: str) -> bool:
    """Whether a value after "password =" is one, and no word, path or piece of code: letters and digits (or marks)
    mixed, with 2.8 bits a character and more."""
    if re.search(r"[()]|^[/.~]|://|\.\w+\.|^[a-z_]+\.[a-z_.]+$|\*{3}|x{4}|\.{3}|…", value, re.I):
        return False
    kinds = [bool(re.search(kind, value)) for kind in (r"[a-z]", r"[A-Z]", r"\d", r"[^A-Za-z\d_.-]")]
    if not (kinds[2] and sum(kinds) >= 2) and sum(kinds) < 3:
        return False
    if re.fullmatch(r"[A-Za-z]+(?:[-_.][A-Za-z]+)*[-_.]?\d{0,2}|[A-Za-z]{1,4}\d{1,2}|\d+(?:\.\d+)*[a-z]{0,3}", value):
        return False  # a name with a number, a size, a duration
    return entropy(value) >= 2.8


def entropy(value: str) -> float:
    """Bits a character, of the characters' frequencies: −Σ p·log₂ p."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


EMAIL = re.compile(
    r"(?<![\w.+%'-])(?P<local>[\w+%'-][\w.+%'-]{0,63})@(?P<domain>(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24})(?![^\W_]|-|\.[\w-])"
)
FILES = frozenset(
    """
    png jpg jpeg gif svg webp css js ts jsx tsx mjs json html htm md py txt yml yaml map pdf zip ico
    """.split()  # noqa: SIM905
)
EXAMPLES = re.compile(r"(?:^|\.)(?:example\.(?:com|org|net|edu)|example|test|invalid|localhost|local)$", re.I)


def emails(text: str) -> Iterator[Finding]:
    """Mail addresses; not git@host:path, icon@2x.png, nor the domains that RFC 2606 keeps for examples."""
    if "@" not in text:
        return
    for found in EMAIL.finditer(text):
        local, domain = found["local"], found["domain"]
        remote = local == "git" and text[found.end() : found.end() + 1] in (":", "/")
        login = text[: found.start()].endswith("://")
        if remote or login or domain.rpartition(".")[2].lower() in FILES or EXAMPLES.search(domain):
            continue
        start = found.start() + len(local) - len(local.lstrip("'%_"))
        yield Finding("email", start, found.end(), text[start : found.end()].lower())


CARD = re.compile(
    r"(?<![\w.,+/=&#-])(?:\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|3\d{3}([ -])\d{6}\2\d{4,5}|\d{13,19})(?![\w/=#-]|[.,]\d)"
)
ISSUERS = re.compile(
    r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|3(?:0[0-5]|[689])|6(?:011|4[4-9]|5|2)|35(?:2[89]|[3-8])|50|5[6-9]|6[37]"
)
LENGTHS = {"3": (14, 15, 16), "4": (13, 16, 19), "5": (16,), "2": (16,), "6": (16, 17, 18, 19)}


def cards(text: str) -> Iterator[Finding]:
    """Payment cards: an issuer's first digits, its length, Luhn's checksum; bare digits only where nothing says that
    they are something else."""
    for found in CARD.finditer(text) if hints.card(text) else ():
        digits = re.sub(r"\D", "", found[0])
        if not ISSUERS.match(digits) or len(digits) not in LENGTHS[digits[0]] or not luhn(digits):
            continue
        if len(set(digits)) < 4 and digits[1:] == digits[:-1]:
            continue
        if found[0] == digits and digits[:2] not in ("34", "37") and len(digits) not in (16,):
            near = text[max(0, found.start() - 40) : found.end() + 40]
            if not CARD_WORDS.search(near):
                continue  # of bare numbers of 13 to 19 digits, one in ten passes Luhn's test
        yield Finding("card", found.start(), found.end(), digits)


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B: every second digit from the right doubled, digits summed, a multiple of ten."""
    total = sum(sum(divmod(2 * int(d), 10)) if at % 2 else int(d) for at, d in enumerate(reversed(digits)))
    return total % 10 == 0


IBAN = re.compile(r"(?<![A-Z0-9])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,32}")
IBAN_LENGTHS = {
    country: int(length)
    for length, countries in (
        ("15", "NO"), ("16", "BE"), ("18", "DK FK FI FO GL NL SD"), ("19", "MK SI"), ("20", "AT BA EE KZ LT LU MN XK"),
        ("21", "CH HR LI LV"), ("22", "BG BH CR DE GB GE IE ME RS VA"), ("23", "AE GI IL IQ OM SO TL"),
        ("24", "AD CZ ES MD PK RO SA SE SK TN VG"), ("25", "LY PT ST"), ("26", "IS TR"),
        ("27", "BI DJ FR GR IT MC MR SM"), ("28", "AL AZ BY CY DO GT HU LB NI PL SV"), ("29", "BR EG PS QA UA"),
        ("30", "JO KW MU"), ("31", "MT SC"), ("32", "LC"), ("33", "RU"),
    )
    for country in countries.split()
}  # fmt: skip
"""ISO 13616: characters of an IBAN by its country."""


def ibans(text: str) -> Iterator[Finding]:
    """Account numbers: the country's length, and the whole a remainder of 1 modulo 97 (ISO 7064)."""
    for found in IBAN.finditer(text) if hints.digit(text) else ():
        length, held, end = IBAN_LENGTHS.get(found[0][:2]), "", found.start()
        if length is None:
            continue
        while len(held) < length and end < found.end():
            held += text[end] if text[end].isalnum() else ""
            end += 1
        after = text[end : end + 1]
        if len(held) == length and not (after.isalnum() and after.isascii()) and iban_holds(held):
            yield Finding("iban", found.start(), end, held)


def iban_holds(account: str) -> bool:
    """The first four characters at the end, letters as 10 to 35: remainder 1 modulo 97."""
    return int("".join(str(int(c, 36)) for c in account[4:] + account[:4])) % 97 == 1


SSN = re.compile(r"(?<![\w.-])(?!000|666|9\d\d)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-]|\.\d)")


def ssns(text: str) -> Iterator[Finding]:
    """Social security numbers of the United States, written with dashes; the numbers never given out do not count."""
    for found in SSN.finditer(text) if hints.social(text) else ():
        if found[0] not in ("123-45-6789", "078-05-1120"):  # everyone's example, and the wallet's
            yield Finding("ssn", found.start(), found.end(), found[0])


IPV4 = re.compile(r"(?<![\w.:/-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\w)|(?<=://)(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\w)")
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-f]{0,4}:){2,7}(?:[0-9a-f]{1,4})?(?![\w:])", re.I)
VERSION = re.compile(r"(?:\bv|version|release|build|firmware|upgrade|\bver|==|>=|<=|~=|\bsection|§|@)[\s:.=]*$", re.I)
RESOLVERS = {"8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9"}


def ips(text: str) -> Iterator[Finding]:
    """Internet addresses that lead to someone: not those of local networks, of documentation, of public name servers;
    not versions ("v1.2.3.4", "version 10.4.2.1")."""
    for pattern in [pattern for pattern, may in ((IPV4, hints.four), (IPV6, hints.six)) if may(text)]:
        for found in pattern.finditer(text):
            try:
                address = ipaddress.ip_address(found[0])
            except ValueError:
                continue
            public = address.is_global and not address.is_multicast and found[0] not in RESOLVERS
            if public and not VERSION.search(text[max(0, found.start() - 16) : found.start()]):
                if found[0].count(".") == 3 and all(int(part) < 10 for part in found[0].split(".")):
                    continue  # 2.0.0.1 is more often a version
                yield Finding("ip", found.start(), found.end(), str(address))
