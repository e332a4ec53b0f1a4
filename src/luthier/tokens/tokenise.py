"""A streamed source -> shards of token sequences, over all cores: each chunk of rows is one shard, whoever makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from typing import NamedTuple

from luthier.base.files import hash_of
from luthier.base.nouns import Chat, Example, Rejected, Text
from luthier.base.store import Store
from luthier.base.stored import Job, Made, Tell, name_of, stored
from luthier.data.chunks import rows_in
from luthier.data.dataset import Conversion
from luthier.data.survey import Piece, Survey, code_of
from luthier.tokens.facts import Facts, Marks, as_json, facts_of, from_json, marks_of, total
from luthier.tokens.prepare import Overlong, Prepared, TrainOn, prepare
from luthier.tokens.render import Renderer
from luthier.tokens.shards import Shard, TokenShards, ids_dtype

TOGETHER = 256
"""Examples prepared at once: what is held of a chunk as Python objects."""
CODE = ("base/arrays.py", "data/*.py", "tokens/*.py")
LIBRARIES = ("tokenizers", "transformers", "jinja2")
"""What tokens depend on besides."""


@dataclass(frozen=True)
class Rules:
    """What becomes of rows longer than `max_length` tokens, and which tokens are trained on."""

    max_length: int
    documents: Overlong
    conversations: Overlong
    train_on: TrainOn = "answers"
    masked: bool = False
    """Documents as an encoder reads them."""

    def apply(self, examples: Sequence[Example], renderer: Renderer) -> Prepared:
        """Examples as sequences: documents, then conversations. Raises UserError as `prepare` does."""
        if self.masked:
            from luthier.tokens.masking import prepare_documents  # which needs torch; workers start without

            return prepare_documents(examples, renderer.tokenizer, self.max_length, self.documents)
        parts = [
            prepare([e for e in examples if isinstance(e, Text)], renderer, self.max_length, self.documents),
            prepare(
                [e for e in examples if isinstance(e, Chat)],
                renderer,
                self.max_length,
                self.conversations,
                self.train_on,
            ),
            # one of any other kind is refused, in words that say what it is
            prepare([e for e in examples if not isinstance(e, Text | Chat)][:1], renderer, self.max_length, "error"),
        ]
        return Prepared(
            [s for part in parts for s in part.sequences],
            [origin for part in parts for origin in part.dropped],
            [origin for part in parts for origin in part.truncated],
            sum(part.split for part in parts),
            sum(part.lost_tokens for part in parts),
        )


class Tokenised(NamedTuple):
    """A streamed source's training rows as tokens, and what is known of them."""

    sequences: TokenShards
    facts: Facts


class Rendering(NamedTuple):
    """All that it takes to make a shard of a chunk."""

    conversion: Conversion
    renderer: Renderer
    rules: Rules
    marks: Marks
    dtype: str


def tokenise(survey: Survey, renderer: Renderer, rules: Rules, store: Store, workers: int, tell: Tell) -> Tokenised:
    """The training rows of a streamed source, in file order, as `Rules.apply` makes them. What `store` has is not made
    again. Raises UserError as that does, for the first chunk that holds a row it refuses."""
    name, dtype = survey.conversion.name, ids_dtype(len(renderer.tokenizer))
    key = {
        "of": "tokens",
        "rows": survey.key,
        "tokenizer": tokenizer_hash(renderer),
        "rules": asdict(rules),
        "dtype": dtype,
        "code": code_of(*CODE),
        "libraries": {library: version(library) for library in LIBRARIES},
    }
    rendering = Rendering(survey.conversion, renderer, rules, marks_of(renderer), dtype)
    folder = store.inside(f"{name}-tokens-{name_of(key)}")
    index = stored(folder, Job(key, survey.pieces, tokenise_chunk, rendering, workers), tell)
    entries = index["entries"]
    return Tokenised(TokenShards(folder, entries), total(from_json(entry["facts"]) for entry in entries))


def tokenise_chunk(how: Rendering, piece: Piece) -> Made:
    """One shard: the training rows of a chunk."""
    read = how.conversion.rows(rows_in(piece.chunk))
    examples = (e for row in read if not isinstance(e := how.conversion.example(row), Rejected))
    training = (e for e in islice(examples, piece.take) if not how.conversion.held_out(e))
    shard, facts, rows = Shard(how.dtype), Facts(), 0
    while some := list(islice(training, TOGETHER)):
        made = how.rules.apply(some, how.renderer)
        facts += facts_of(made, how.marks)
        shard.add(made.sequences)
        rows += len(some)
    said = {"rows": rows, "sequences": facts.sequences, "tokens": facts.tokens, "facts": as_json(facts)}
    return Made(shard.content(), said)


def tokenizer_hash(renderer: Renderer) -> str:
    """Of all that decides which ids a text or a conversation becomes."""
    tokenizer = renderer.tokenizer
    rules = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
    special = sorted((id, token.content) for id, token in tokenizer.added_tokens_decoder.items())
    ids = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id]
    name = type(tokenizer).__name__
    return hash_of([name, rules, special, ids, tokenizer.chat_template, sorted(renderer.extra_end_ids)])
