"""What a recipe says about the licences of its data: which rows may be trained on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.base.strict import Strict


class LicencePolicy(Strict):
    """Which licences and terms the rows may have. A run stops where some have others, and names them."""

    allow: Literal["any", "commercial", "share"] = "any"
    """commercial: a model trained on the rows may earn money. share: that, and the rows themselves may be passed on.
    any: everything is allowed, and the verdict is told."""
    unclear: Literal["refuse", "accept"] = "refuse"
    """Rows of which nobody knows what may be done with them: no licence given, one that is not known here, terms that
    depend on what the model is for."""
    share_alike: bool = True
    """Allow rows whose licence must be passed on with them (CC-BY-SA, GPL, ODbL)."""
    machine_frac: float | None = Field(default=None, ge=0, le=1)
    """At most this share of the rows may be written by a machine. Answers that rules quote from documents are not."""
    refuse: list[str] = []
    """Licences that no row may have, whatever they allow: [GPL-3.0-only, CC-BY-SA-*]."""
    cleared: dict[str, Literal["commercial", "share", "none"]] = {}
    """What someone who can judge it decided, by the name of a licence, a generator or a source: {LicenseRef-acme:
    commercial, gpt-4o: share}. none: not to be used."""
