"""How near an answer's words are to a reference's: exact match and F1 as SQuAD has them, ROUGE-L, BLEU and chrF.

Each takes plain texts. BLEU and chrF belong to a whole corpus: per item there are statistics, which add up, and a score
of a sum, so that an interval can be drawn over items.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from luthier.base import rouge
from luthier.base.errors import UserError


def squad_normal(text: str) -> str:
    """Lower case, without punctuation, articles and spare blanks. Rajpurkar et al. 2016, the official script."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def exact_match(text: str, golds: Sequence[str]) -> bool:
    """Whether the answer is one of the accepted ones, normalised as SQuAD does."""
    return any(squad_normal(text) == squad_normal(gold) for gold in golds)


def token_f1(text: str, golds: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over the words that answer and reference share, of the reference that fits
    best; 1 where both are empty. Rajpurkar et al. 2016."""
    return max(_f1(squad_normal(text).split(), squad_normal(gold).split()) for gold in golds)


def _f1(ours: Sequence[str], theirs: Sequence[str]) -> float:
    if not ours or not theirs:
        return float(list(ours) == list(theirs))
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs))  # 2PR/(P + R) with P = shared/ours and R = shared/theirs


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of words, without stemming. Lin 2004, §3.1."""
    return rouge.rouge_l(rouge.words_of(text), rouge.words_of(reference))


class CorpusScore(NamedTuple):
    """A score of a whole corpus, from statistics that add up."""

    stats_NF: np.ndarray
    """Row by row."""
    score: Callable[[np.ndarray], float]
    """Of a sum of rows, 0 to 100."""
    each_N: np.ndarray
    """The score of each row alone (for BLEU with the orders that a short row has, Lin and Och 2004): to find rows by,
    never to be averaged."""
    signature: str
    """sacrebleu's: with it others get the same."""


def corpus_score(name: str, texts: Sequence[str], references: Sequence[str]) -> CorpusScore:
    """BLEU ("bleu") or chrF2 ("chrf") by sacrebleu. Raises UserError where it is not installed."""
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise UserError(f'{name} needs sacrebleu, which is not installed: pip install "luthier[eval]"') from error
    metric = BLEU(force=True) if name == "bleu" else CHRF()
    # What sacrebleu's own significance tests stand on.
    stats_NF = np.array(metric._extract_corpus_statistics(texts, [list(references)]), dtype=np.float64)

    def score(stats_F: np.ndarray) -> float:
        return float(metric._compute_score_from_stats(stats_F.round().astype(int).tolist()).score)

    alone = BLEU(effective_order=True, force=True) if name == "bleu" else metric
    pairs = zip(texts, references, strict=True)
    each_N = np.array([alone.sentence_score(text, [reference]).score for text, reference in pairs])
    return CorpusScore(stats_NF, score, each_N, str(metric.get_signature()))
