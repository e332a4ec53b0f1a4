"""What well-known licences allow, each a line of a table, by its SPDX id. A reading aid for people, no legal advice.

Three answers: True, False, None (its text does not say, or lawyers differ).
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Terms(NamedTuple):
    """What may be done with rows under some terms."""

    commercial: bool | None
    """A model trained on them may earn money."""
    share: bool | None
    """They, changed, may be passed on: the data set may be published."""
    derivatives: bool | None = True
    """Changed or excerpted rows may be passed on."""
    share_alike: bool = False
    """Whoever passes them on, changed, does so under the same licence."""
    attribution: bool = False
    """Whoever passes them on names the authors and the licence."""
    field: str | None = None
    """What it forbids or asks for besides, in plain words."""


FREE = Terms(True, True)
NAMED = Terms(True, True, attribution=True)
ALIKE = Terms(True, True, share_alike=True, attribution=True)
UNKNOWN = Terms(None, None, None)


def rail(words: str) -> Terms:
    """A licence with a list of uses it forbids, to be passed on."""
    return Terms(
        True, True, attribution=True, field=f"forbids the uses on its list ({words}), and so must your licence"
    )


def creative_commons() -> dict[str, Terms]:
    """CC-BY and its five relatives in every version. ND: excerpts are changes, so a data set of them is not shared."""
    found = {}
    for version in ("1.0", "2.0", "2.5", "3.0", "4.0"):
        for marks in ("", "-SA", "-ND", "-NC", "-NC-SA", "-NC-ND"):
            nc, sa, nd = "NC" in marks, "SA" in marks, "ND" in marks
            found[f"CC-BY{marks}-{version}"] = Terms(
                not nc,
                not nd,
                not nd,
                sa,
                True,
                "for non-commercial purposes only" if nc else None,
            )
    return found


TABLE: dict[str, Terms] = {
    **creative_commons(),
    **dict.fromkeys(
        ("CC0-1.0", "Unlicense", "0BSD", "MIT-0", "WTFPL", "PDDL-1.0", "CC-PDDC", "BSL-1.0", "Zlib", "Libpng",
         "CDLA-Permissive-2.0", "LicenseRef-public-domain"),
        FREE,
    ),
    **dict.fromkeys(
        ("Apache-2.0", "Apache-1.1", "MIT", "ISC", "BSD-2-Clause", "BSD-3-Clause", "BSD-4-Clause", "BSD-3-Clause-Clear",
         "BSD-2-Clause-Patent", "Artistic-2.0", "PSF-2.0", "Python-2.0", "NCSA", "PostgreSQL", "X11", "curl", "AFL-3.0",
         "ECL-2.0", "MS-PL", "UPL-1.0", "BlueOak-1.0.0", "CDLA-Permissive-1.0", "ODC-By-1.0", "OGL-UK-3.0",
         "OGL-UK-2.0", "OGL-UK-1.0", "etalab-2.0", "DL-DE-BY-2.0", "MulanPSL-2.0", "OFL-1.1", "W3C", "Unicode-3.0"),
        NAMED,
    ),
    **dict.fromkeys(
        ("GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later", "LGPL-2.0-only", "LGPL-2.1-only",
         "LGPL-2.1-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later", "AGPL-3.0-only", "AGPL-3.0-or-later", "MPL-1.1",
         "MPL-2.0", "EPL-1.0", "EPL-2.0", "EUPL-1.1", "EUPL-1.2", "CDDL-1.0", "CDDL-1.1", "OSL-3.0", "MS-RL",
         "CDLA-Sharing-1.0", "ODbL-1.0", "GFDL-1.1-only", "GFDL-1.1-or-later", "GFDL-1.2-only", "GFDL-1.2-or-later",
         "GFDL-1.3-only", "GFDL-1.3-or-later", "CERN-OHL-S-2.0", "SSPL-1.0"),
        ALIKE,
    ),
    "C-UDA-1.0": Terms(
        True, True, attribution=True, field="for computational use only: the rows may be computed on, not shown"
    ),
    "O-UDA-1.0": NAMED,
    "DL-DE-ZERO-2.0": FREE,
    "JSON": Terms(True, True, attribution=True, field='"for Good, not Evil"'),
    "PolyForm-Noncommercial-1.0.0": Terms(False, True, True, False, True, "for non-commercial purposes only"),
    "PolyForm-Small-Business-1.0.0": Terms(None, True, True, False, True, "for small businesses only"),
    "BUSL-1.1": Terms(None, True, True, False, True, "no production use before its change date"),
    "Elastic-2.0": Terms(True, True, True, False, True, "not as a hosted service for others"),
    "LicenseRef-openrail": rail("OpenRAIL"),
    "LicenseRef-bigscience-openrail-m": rail("BigScience OpenRAIL-M"),
    "LicenseRef-bigscience-bloom-rail-1.0": rail("BigScience BLOOM RAIL"),
    "LicenseRef-creativeml-openrail-m": rail("CreativeML OpenRAIL-M"),
    "LicenseRef-bigcode-openrail-m": rail("BigCode OpenRAIL-M"),
    "LicenseRef-llama2": Terms(
        None, True, True, False, True, "no other language model may be improved with it"
    ),
    "LicenseRef-llama3": Terms(
        None, True, True, False, True, "no other language model may be improved with it"
    ),
    "LicenseRef-llama3.1": Terms(
        True, True, True, False, True, 'the model\'s name begins with "Llama", "Built with Llama" is shown; over 700 '
        "million users: ask Meta"
    ),
    "LicenseRef-gemma": Terms(
        True, True, True, False, True, "Gemma's terms of use and its list of forbidden uses go with it"
    ),
    "LicenseRef-own": Terms(True, True, field="yours: you decide"),
    "LicenseRef-internal": Terms(True, False, False, field="yours, and not to be passed on"),
    "LicenseRef-proprietary": Terms(
        False, False, False, field="all rights are someone else's: only what your contract says"
    ),
    "LicenseRef-research-only": Terms(False, None, None, field="for research only"),
    "LicenseRef-non-commercial": Terms(False, None, None, field="for non-commercial purposes only"),
}  # fmt: skip
"""The ids that data sets carry, and ids of our own (LicenseRef-...) for terms that SPDX has no id for."""

ALIASES = {
    "apache": "Apache-2.0", "apache2": "Apache-2.0", "asl20": "Apache-2.0", "expat": "MIT", "bsd": "BSD-3-Clause",
    "newbsd": "BSD-3-Clause", "simplifiedbsd": "BSD-2-Clause", "bsd3": "BSD-3-Clause", "bsd2": "BSD-2-Clause",
    "bsd3clauseneworrevised": "BSD-3-Clause", "cc0": "CC0-1.0", "cczero": "CC0-1.0", "cczero10": "CC0-1.0",
    "cc010universal": "CC0-1.0", "pd": "LicenseRef-public-domain", "publicdomain": "LicenseRef-public-domain",
    "usgovernmentwork": "LicenseRef-public-domain", "gpl2": "GPL-2.0-only", "gpl20": "GPL-2.0-only",
    "gpl20+": "GPL-2.0-or-later", "gpl2+": "GPL-2.0-or-later", "gpl3": "GPL-3.0-only", "gpl30": "GPL-3.0-only",
    "gpl3+": "GPL-3.0-or-later", "gpl30+": "GPL-3.0-or-later", "lgpl3": "LGPL-3.0-only", "lgpl30": "LGPL-3.0-only",
    "lgpl21": "LGPL-2.1-only", "agpl3": "AGPL-3.0-only", "agpl30": "AGPL-3.0-only", "mpl2": "MPL-2.0",
    "gfdl": "GFDL-1.3-or-later", "gfdl13": "GFDL-1.3-only", "gfdl12": "GFDL-1.2-only", "odcby": "ODC-By-1.0",
    "odbl": "ODbL-1.0", "pddl": "PDDL-1.0", "cdlasharing": "CDLA-Sharing-1.0", "cdlapermissive": "CDLA-Permissive-2.0",
    "opengovernmentlicence30": "OGL-UK-3.0", "opengovernment30": "OGL-UK-3.0", "ogl30": "OGL-UK-3.0",
    "openrail": "LicenseRef-openrail", "openrail++": "LicenseRef-creativeml-openrail-m",
    "creativemlopenrailm": "LicenseRef-creativeml-openrail-m", "bigcodeopenrailm": "LicenseRef-bigcode-openrail-m",
    "bigscienceopenrailm": "LicenseRef-bigscience-openrail-m",
    "bigsciencebloomrail10": "LicenseRef-bigscience-bloom-rail-1.0", "llama2": "LicenseRef-llama2",
    "llama3": "LicenseRef-llama3", "llama31": "LicenseRef-llama3.1", "llama32": "LicenseRef-llama3.1",
    "llama33": "LicenseRef-llama3.1", "llama4": "LicenseRef-llama3.1", "gemma": "LicenseRef-gemma",
    "own": "LicenseRef-own", "ours": "LicenseRef-own", "owndata": "LicenseRef-own", "internal": "LicenseRef-internal",
    "confidential": "LicenseRef-internal", "proprietary": "LicenseRef-proprietary",
    "allrightsreserved": "LicenseRef-proprietary", "copyrighted": "LicenseRef-proprietary",
    "researchonly": "LicenseRef-research-only",
    "research": "LicenseRef-research-only", "academicuse": "LicenseRef-research-only",
    "noncommercial": "LicenseRef-non-commercial",
}  # fmt: skip
"""Other spellings, as `key` squeezes them. A GNU id without "or later" is read as that version only."""

NOTHING = {"", "unknown", "other", "none", "null", "na", "unspecified", "various", "cc", "noassertion", "tbd"}
"""What people write where nobody knows."""

WORDS = (
    (r"creative ?commons", "cc"),
    (r"attribution", "by"),
    (r"non-?commercial", "nc"),
    (r"share-?alike", "sa"),
    (r"no-?deriv(ative)?s?", "nd"),
    (r"\bzero\b", "0"),
    (r"gnu (general public licen[cs]e|gpl)", "gpl"),
    (r"gnu lesser general public licen[cs]e", "lgpl"),
    (r"gnu affero general public licen[cs]e", "agpl"),
    (r"gnu free documentation licen[cs]e", "gfdl"),
    (r"mozilla public licen[cs]e", "mpl"),
    (r"open data commons", "odc"),
    (r"\b(or any|or)[ -]later( version)?", "+"),
    (r"-or-later\b", "+"),
    (r"\b(licen[cs]ed|licen[cs]e|the|version|international|generic|unported|universal|under|only|public domain "
     r"dedication|data|software|agreement|community)\b", " "),
    (r"-only\b", ""),
    (r"(\b|(?<=gpl))v(er|ersion)?\.? ?(?=\d)", ""),
)  # fmt: skip
BRACKETS = re.compile(r"^(.+?)\s*\(([^()]+)\)$")
ADDRESS = re.compile(
    r"https?://(?:www\.)?creativecommons\.org/(licenses|publicdomain)/([a-z-]+)/(\d\.\d)", re.IGNORECASE
)


def key(text: str) -> str:
    """A spelling squeezed to what tells licences apart: "Apache License, Version 2.0" and "apache-2.0" are apache20."""
    text = text.strip().casefold().replace("_", "-")
    for pattern, instead in WORDS:
        text = re.sub(pattern, instead, text)
    return re.sub(r"[^a-z0-9+]", "", text)


BY_KEY = {**{key(name.removeprefix("LicenseRef-")): name for name in TABLE}, **{key(name): name for name in TABLE}}
BY_KEY |= {key(name).removeprefix("cc"): name for name in TABLE if name.startswith("CC-BY")}
BY_KEY |= {key(alias): name for alias, name in ALIASES.items()}


def id_of(text: str) -> str | None:
    """The SPDX id that is meant by a common spelling, or by an address at creativecommons.org; None: not known here."""
    if text in TABLE:
        return text
    if found := ADDRESS.match(text.strip()):
        kind, marks, version = found.groups()
        if kind == "publicdomain":
            return "CC0-1.0" if marks == "zero" else "LicenseRef-public-domain"
        return BY_KEY.get(key(f"cc-{marks}-{version}"))
    if twice := BRACKETS.match(text.strip()):  # "The MIT License (MIT)"; but "MIT (non-commercial)" is no MIT
        outer, inner = (BY_KEY.get(key(part)) for part in twice.groups())
        return outer if outer == inner else None
    return BY_KEY.get(key(text))
