"""Randomness is a function of (seed, purpose, counter), never of what ran before. That is what makes resume exact."""

from __future__ import annotations

import hashlib


def seed_for(seed: int, purpose: str, counter: int = 0) -> int:
    """A 63-bit seed for one use of randomness."""
    digest = hashlib.sha256(f"{seed}:{purpose}:{counter}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
