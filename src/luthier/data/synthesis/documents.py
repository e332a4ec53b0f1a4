"""Documents -> rows, by asking a model: questions with answers that quote their passage, questions that have no answer
there, and the instruction that a text would be the answer to."""

from __future__ import annotations

import re
from collections.abc import Sequence

from luthier.base.nouns import Text
from luthier.data.synthesis.made import Dropped, Made, answered
from luthier.data.synthesis.means import Found, Means, no_reply
from luthier.data.synthesis.parse import grade, items, objects, one_text
from luthier.data.synthesis.passages import Nearest, Passage, found_in, passages
from luthier.data.text import case_folded

LOOKED_UP = 3
"""Passages that are searched for an answer to a question that is to have none."""
LEAST_QUOTE_WORDS = 3
OUTSIDE = re.compile(
    r"\b(?:the|this|that|above|given|provided) (?:\w+ )?"
    r"(?:passage|text|excerpt|document|paragraph|section|article|context|author)\b"
    r"|\baccording to (?:the|this)\b|\b(?:mentioned|described|listed|stated) (?:above|below|here|in the)\b",
    re.IGNORECASE,
)
"""What a question says that only someone who sees the passage could ask."""

QUESTIONS = """Here is a passage from a document ({title}).

<passage>
{passage}
</passage>

Write up to {count} questions that a reader of the whole document might ask, and that this passage answers. Each
question must be understood without seeing the passage. Answer each in one or a few sentences, with nothing that the
passage does not say, and copy the words of the passage that prove the answer. If the passage answers no useful
question, return [].

Return only JSON: [{{"question": "...", "answer": "...", "quote": "words copied from the passage"}}]"""

UNANSWERABLE = """Here is a passage from a document ({title}).

<passage>
{passage}
</passage>

Write up to {count} questions about the same subject that sound as if the document answered them, but that this passage
does NOT answer. Each must be understood without seeing the passage, and ask for a fact.

Return only JSON: ["...", "..."]"""

IS_ANSWERED = """{passages}

Question: {question}

Do the passages above answer the question, even in part? Reply with one word: yes or no."""

BACK_TRANSLATION = """Below is a text ({title}). Write the one instruction or question to which this text, as it stands,
would be a helpful and complete answer. It must be understood without seeing the text.

<text>
{passage}
</text>

Reply with the instruction alone."""

CURATION = """Below are an instruction from a user and a candidate answer. Rate on a scale of 1 to 5 how good an example
the answer is of what an assistant should reply to the instruction.
1: incomplete, off topic, or not what was asked. 2: addresses most of it, but not directly. 3: helpful, but not written
from the view of an assistant. 4: written for the user, clear and complete, with small flaws. 5: a perfect answer, with
no content that does not belong.
First give your reasoning in a sentence. Then write "Score: <rating>" in the last line.

Instruction: {instruction}

Answer: {answer}"""


def prompts_of(template: str, found: Sequence[Passage], count: int) -> list[str]:
    """One prompt a passage."""
    return [template.format(title=p.title or "untitled", passage=p.text, count=count) for p in found]


def questions(documents: Sequence[Text], means: Means) -> Found:
    """Questions with answers that a quote and the passage support. Menick et al. 2022 (GopherCite) for the quotes: an
    answer whose words of proof cannot be found in the source, or whose claims the source does not hold, is dropped."""
    cut = list(passages(documents, means.settings.passage_words))
    found: Found = []
    seen: set[str] = set()
    replies = means.ask(prompts_of(QUESTIONS, cut, means.settings.per_row))
    for passage, reply in zip(cut, replies, strict=True):
        if (why := no_reply(reply, whole=False)) is not None:
            found.append(Dropped(passage.origin, why))
            continue
        rows = objects(reply.text, ("question", "answer", "quote"))
        if not rows and reply.text.strip().strip("`json \n") != "[]":
            found.append(Dropped(passage.origin, f'no question can be read in the reply: "{shown(reply.text)}"'))
        for row in rows[: means.settings.per_row]:
            why = wrong(row, passage, means, seen)
            if why is not None:
                found.append(Dropped(passage.origin, f'"{shown(row["question"])}": {why}'))
                continue
            seen.add(case_folded(row["question"]))
            chat = answered(row["question"], row["answer"], passage.origin)
            found.append(Made(chat, passage.item, f"question and answer from a passage by {means.writer}"))
    return found


def wrong(row: dict[str, str], passage: Passage, means: Means, seen: set[str]) -> str | None:
    """Why a question with its answer and its quote is not used."""
    question, answer, quote = row["question"], row.get("answer", ""), row.get("quote", "")
    if (why := bad_question(question, seen)) is not None:
        return why
    if not answer:
        return "it has no answer"
    if means.declines(answer):
        return "its answer is a refusal"
    if len(quote.split()) < LEAST_QUOTE_WORDS:
        return "its answer has no quote"
    if not found_in(quote, passage.text):
        return f'the quote is not in the passage ("{shown(quote)}")'
    if (lacks := means.unsupported(question, answer, f"{passage.title}\n\n{passage.text}")) is not None:
        return f"the answer is not supported: {lacks}"
    return None


def bad_question(question: str, seen: set[str]) -> str | None:
    """Why a question cannot stand alone."""
    if not question.rstrip().endswith("?") or not 3 <= len(question.split()) <= 60:
        return "it is no question of 3 to 60 words"
    if OUTSIDE.search(question):
        return "it speaks of the passage, which its reader does not see"
    return "it was asked before" if case_folded(question) in seen else None


def unanswerable(documents: Sequence[Text], means: Means) -> Found:
    """Questions that sound answerable and are not, with a refusal as their answer. Rajpurkar et al. 2018 (SQuAD 2.0);
    whether they truly are not is asked of the passages nearest to each question in all the documents."""
    cut = list(passages(documents, means.settings.passage_words))
    found: Found = []
    asked: list[tuple[Passage, str]] = []
    seen: set[str] = set()
    for passage, reply in zip(cut, means.ask(prompts_of(UNANSWERABLE, cut, means.settings.per_row)), strict=True):
        if (why := no_reply(reply, whole=False)) is not None:
            found.append(Dropped(passage.origin, why))
            continue
        said = items(reply.text) if "[" in reply.text or "\n" in reply.text else [one_text(reply.text)]
        for question in said[: means.settings.per_row]:
            if (why := bad_question(question, seen)) is not None:
                found.append(Dropped(passage.origin, f'"{shown(question)}": {why}'))
            else:
                seen.add(case_folded(question))
                asked.append((passage, question))
    nearest = Nearest(cut)
    checks = []
    for passage, question in asked:
        near = [cut[k].text for k in nearest(question, LOOKED_UP)]
        near = near if passage.text in near else [passage.text, *near]
        checks.append(IS_ANSWERED.format(passages="\n\n---\n\n".join(near), question=question))
    for (passage, question), reply in zip(asked, means.grade(checks), strict=True):
        said_yes = re.match(r"\W*(yes|no)\b", reply.text, re.IGNORECASE)
        if (why := no_reply(reply, whole=False)) is not None:
            found.append(Dropped(passage.origin, f'"{shown(question)}": {why}'))
        elif said_yes is None or said_yes[1].lower() == "yes":
            why = "the documents answer it" if said_yes else "nobody could say whether the documents answer it"
            found.append(Dropped(passage.origin, f'"{shown(question)}": {why}'))
        else:
            chat = answered(question, means.settings.refusal, passage.origin)
            found.append(Made(chat, passage.item, f"unanswerable question by {means.writer}"))
    return found


def back_translation(documents: Sequence[Text], means: Means) -> Found:
    """Instructions of which passages are the answers, graded by the model itself; the well graded are kept. Li et al.
    2023 (Humpback): self-augmentation (section 2.2) and self-curation (section 2.3, its prompt in short)."""
    cut = list(passages(documents, means.settings.passage_words))
    found: Found = []
    made: list[tuple[Passage, str]] = []
    for passage, reply in zip(cut, means.ask(prompts_of(BACK_TRANSLATION, cut, 1)), strict=True):
        instruction = one_text(reply.text)
        if (why := no_reply(reply)) is not None:
            found.append(Dropped(passage.origin, why))
        elif not 3 <= len(instruction.split()) <= 100 or OUTSIDE.search(instruction) or means.declines(instruction):
            found.append(Dropped(passage.origin, f'no instruction that stands alone: "{shown(instruction)}"'))
        else:
            made.append((passage, instruction))
    checks = [CURATION.format(instruction=instruction, answer=passage.text) for passage, instruction in made]
    for (passage, instruction), reply in zip(made, means.grade(checks), strict=True):
        score = grade(reply.text)
        if (why := no_reply(reply, whole=False)) is not None or score is None:
            found.append(Dropped(passage.origin, f'"{shown(instruction)}": {why or "it got no grade"}'))
        elif score < means.settings.min_grade:
            found.append(Dropped(passage.origin, f'"{shown(instruction)}": graded {score:g} of 5'))
        else:
            chat = answered(instruction, passage.text, passage.origin)
            step = f"instruction back-translated by {means.writer}"
            found.append(Made(chat, passage.item, step, {"curation": score}))
    return found


def shown(text: str) -> str:
    """The beginning of a text, on one line and without what would end a quote."""
    line = " ".join(text.replace('"', "'").split())
    return line if len(line) <= 80 else f"{line[:79]}…"
