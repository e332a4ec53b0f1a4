"""The store of prompts' keys and values against a plain list of what was written."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.model.kept import Kept
from luthier.model.prefill import run_of

LAYERS, HEADS, WIDTHS = (0, 3), 2, (4, 6)
STEPS = st.lists(
    st.one_of(
        st.lists(st.integers(1, 9), min_size=1, max_size=4).map(lambda lengths: ("open", lengths)),
        st.lists(st.booleans(), max_size=12).map(lambda going: ("drop", going)),
    ),
    max_size=12,
)


@given(STEPS, st.integers(0, 3))
def test_every_prompt_finds_its_own_and_nothing_but_zeros_behind_it(steps, shared):
    torch.manual_seed(0)
    kept, plain = Kept(), []
    common = {layer: [torch.randn(HEADS, shared, width) for width in WIDTHS] for layer in LAYERS}
    for what, values in steps:
        if what == "open":
            first = kept.open(torch.tensor(values) + shared, shared)
            assert first == len(plain)
            made = {n: {layer: [torch.randn(HEADS, n, w) for w in WIDTHS] for layer in LAYERS} for n in set(values)}
            for layer in LAYERS:
                # What a forest holds: first what is shared, then each one's own, some as a run and some not.
                k, v = (
                    torch.cat([common[layer][i], *(made[n][layer][i] for n in values)], dim=1)[None] for i in (0, 1)
                )
                ends = torch.tensor(values).cumsum(0) + shared
                own = [torch.arange(end - n, end) for n, end in zip(values, ends.tolist(), strict=True)]
                own = [path if at % 2 else run_of(path) for at, path in enumerate(own)]
                kept.write(layer, k, v, torch.arange(shared), own, first)
            plain += [made[n] for n in values]
        else:
            going = torch.tensor([b for b in range(len(plain)) if b < len(values) and values[b]], dtype=torch.int64)
            order = kept.drop(going)
            assert sorted(order.tolist()) == going.tolist()
            stayed = [slot for slot, b in enumerate(order.tolist()) if slot == b]
            assert len(stayed) == sum(b < len(going) for b in going.tolist()), "only what fills a hole has moved"
            plain = [plain[b] for b in order.tolist()]
        assert len(kept) == len(plain)
        for layer in LAYERS if plain else ():
            k, v = kept.of(layer)
            for slot, one in enumerate(plain):
                n = one[layer][0].shape[1]
                assert kept.lengths_B[slot] == n + shared
                assert torch.equal(k[slot, :, :n], one[layer][0]) and torch.equal(v[slot, :, :, :n].mT, one[layer][1])
                assert not k[slot, :, n:].any() and not v[slot, :, :, n:].any()
            assert k.shape[2] == max(one[layer][0].shape[1] for one in plain) <= v.shape[3]
            assert torch.equal(kept.common[layer][0][0], common[layer][0])
            assert torch.equal(kept.common[layer][1][0].mT, common[layer][1])


def test_memory_is_what_stands_there_at_the_most():
    """Prompts that come where others have gone take their slots; more slots, or longer ones, are made as needed."""
    kept = Kept()

    def put(lengths):
        first = kept.open(torch.tensor(lengths), 0)
        for n, slot in zip(lengths, range(first, first + len(lengths)), strict=True):
            kept.write(0, torch.ones(1, 1, n, 2), torch.ones(1, 1, n, 2), torch.arange(0), [slice(0, n)], slot)
        return kept.store[0][0]

    place = put([5, 4, 3, 2])
    kept.drop(torch.tensor([1]))
    assert put([4, 4]).data_ptr() == place.data_ptr() and len(kept) == 3, "the same memory, with room for one more"
    kept.drop(torch.tensor([0, 2]))
    assert put([3] * 4).shape == (6, 1, 4, 2), "grown to what is there"
    kept.drop(torch.tensor([5]))
    assert put([7]).shape == (2, 1, 7, 2)
