"""Conversations -> more of them, by asking a model: other wordings, new instructions, harder ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from luthier.base.nouns import Chat, Message, last_user
from luthier.base.rouge import words_of
from luthier.data.synthesis.documents import shown
from luthier.data.synthesis.made import Dropped, Made
from luthier.data.synthesis.means import Found, Means, no_reply
from luthier.data.synthesis.novelty import likeness, pool_of
from luthier.data.synthesis.parse import items, one_text
from luthier.data.text import case_folded

PARAPHRASE = """Write the question below in {count} other ways, as other people would ask it. Change the words and the
order, keep the meaning, and keep every name and number as it is.

{question}

Return only JSON: ["...", "..."]"""

SELF_INSTRUCT = """Come up with new tasks for an assistant. Here are some that there are:

{seeds}

Write {count} more. Make them different from these in what they are about and in what they ask for, and answerable in
text alone. One a line, numbered."""

DEPTH = {
    "adding one more constraint or requirement": "constraints",
    "making what it asks for deeper and broader": "deepening",
    "replacing general concepts with more specific ones": "concretising",
    "asking for several steps of reasoning where one was enough": "reasoning",
    "adding input that has to be worked on, such as a table, a text or code": "input",
}
"""WizardLM's ways of in-depth evolving (section 3.2)."""
EVOLVE = """Rewrite the prompt below into a more complex version that is still reasonable, and that a person can
understand and answer. Do it by {how}. Add no more than 10 to 20 words.

{instruction}

Reply with the rewritten prompt alone."""
BREADTH = """Write a brand new prompt in the same domain as the one below, of the same length and difficulty, but about
something rarer.

{instruction}

Reply with the new prompt alone."""

SKIPPED = re.compile(
    r"\b(?:images?|graphs?|pictures?|files?|maps?|draw|plot|go to|videos?|audio|music|flowcharts?|diagrams?)\b", re.I
)
"""What a model of text cannot do (Wang et al. 2022, appendix A.2)."""
ROUNDS = 20
"""Most rounds of self-instruct: a model that has no new ideas would be asked for ever."""
PROMPTS_A_ROUND, SHOWN_SEEDS, MACHINE_SEEDS, WANTED = 4, 8, 2, 6
"""Prompts of one round; tasks shown in each, of which so many were made before (Wang et al.: 6 human, 2 made); tasks
asked for in each."""


def paraphrase(chats: Sequence[Chat], means: Means) -> Found:
    """The same answer to the same question in other words. Honovich et al. 2022 (Unnatural Instructions) expand
    instructions so; a wording that loses or adds a name or a number is left out."""
    found: Found = []
    count = means.settings.per_row
    prompts = [PARAPHRASE.format(count=count, question=last_user(chat.prompt)) for chat in chats]
    for number, (chat, reply) in enumerate(zip(chats, means.ask(prompts), strict=True)):
        question = last_user(chat.prompt)
        if (why := no_reply(reply, whole=False)) is not None:
            found.append(Dropped(chat.origin, why))
            continue
        seen = {case_folded(question)}
        for wording in items(reply.text)[:count]:
            if case_folded(wording) in seen:
                found.append(Dropped(chat.origin, f'"{shown(wording)}": it is the same wording'))
            elif not means.same(question, wording):
                found.append(
                    Dropped(chat.origin, f'"{shown(wording)}": it does not ask the same as "{shown(question)}"')
                )
            else:
                seen.add(case_folded(wording))
                found.append(Made(asked_so(chat, wording), number, f"paraphrase by {means.writer}"))
        if len(seen) == 1 and not items(reply.text):
            found.append(Dropped(chat.origin, f'no wording can be read in the reply: "{shown(reply.text)}"'))
    return found


def asked_so(chat: Chat, words: str) -> Chat:
    """The conversation with its last question in these words."""
    at = max(k for k, message in enumerate(chat.messages) if message.role == "user")
    messages = (*chat.messages[:at], Message("user", words), *chat.messages[at + 1 :])
    return replace(chat, messages=messages)


def self_instruct(chats: Sequence[Chat], means: Means) -> Found:
    """New instructions in the manner of the seeds, kept where no other is near (ROUGE-L), then answered. Wang et al.
    2022 (Self-Instruct), section 2.2: eight tasks shown, six of people and two made before; filters of appendix A.2."""
    seeds = list(dict.fromkeys(last_user(chat.prompt) for chat in chats))
    pool, made = pool_of(seeds), list[str]()
    found: Found = []
    chance = means.random("self-instruct")
    for number in range(ROUNDS):
        if len(made) >= means.settings.rows or not seeds:
            break
        prompts = []
        for _ in range(min(PROMPTS_A_ROUND, -(-(means.settings.rows - len(made)) // WANTED))):
            own = chance.sample(made, min(MACHINE_SEEDS, len(made)))
            some = [*chance.sample(seeds, min(SHOWN_SEEDS - len(own), len(seeds))), *own]
            chance.shuffle(some)
            listed = "\n".join(f"{i}. {' '.join(task.split())}" for i, task in enumerate(some, 1))
            prompts.append(SELF_INSTRUCT.format(seeds=listed, count=WANTED))
        for reply in means.ask(prompts, draw=number):
            if (why := no_reply(reply, whole=False)) is not None:
                found.append(Dropped("self-instruct", why))
                continue
            said = items(reply.text)
            said = said if reply.ended else said[:-1]
            for task in said[: 2 * WANTED]:
                score, near = pool.nearest(task, means.settings.novelty)
                reason = no_task(task) or (f'ROUGE-L {score:.2f} with "{shown(near)}"' if near else None)
                if reason is not None:
                    found.append(Dropped("self-instruct", f'"{shown(task)}": {reason}'))
                elif len(made) < means.settings.rows:
                    pool.add(task)
                    made.append(task)
        if found and not made and all(isinstance(one, Dropped) and "no answer" in one.reason for one in found):
            break  # nobody is there
    return found + replied([(task, None, "self-instruct") for task in made], means, "instruction by self-instruct")


def no_task(task: str) -> str | None:
    """Why an instruction is none (Wang et al. 2022, appendix A.2)."""
    words = task.split()
    if not 3 < len(words) <= 150:
        return "it has not 4 to 150 words"
    if SKIPPED.search(task):
        return "it asks for what text cannot give"
    if not re.match(r"[^\W_]|[\"'“(¿¡]", task):
        return "it begins with a mark"
    return None


def evolve(chats: Sequence[Chat], means: Means) -> Found:
    """Instructions made harder in one of five ways, or rarer, and answered; those that did not evolve are left out. Xu
    et al. 2023 (WizardLM), section 3.2, eliminations of section 3.3."""
    chance = means.random("evolve")
    ways = [*DEPTH, None]
    asked: list[tuple[int, str]] = []
    prompts = []
    for number, chat in enumerate(chats):
        for how in chance.sample(ways, min(means.settings.per_row, len(ways))):
            template = BREADTH if how is None else EVOLVE
            prompts.append(template.format(how=how, instruction=last_user(chat.prompt)))
            asked.append((number, "breadth" if how is None else DEPTH[how]))
    found: Found = []
    evolved: list[tuple[str, int | None, str]] = []
    seen: set[str] = set()
    for (number, way), reply in zip(asked, means.ask(prompts), strict=True):
        chat, task = chats[number], one_text(reply.text)
        why = no_reply(reply) or not_evolved(last_user(chat.prompt), task)
        why = why or ("it was made before" if case_folded(task) in seen else None)
        if why is not None:
            found.append(Dropped(chat.origin, f'"{shown(task)}": {why}' if task else why))
        else:
            seen.add(case_folded(task))
            evolved.append((task, number, f"{chat.origin} ({way})"))
    return found + replied(evolved, means, "instruction evolved")


def not_evolved(before: str, after: str) -> str | None:
    """Why an instruction did not evolve: it says the same, holds nothing, or repeats the request."""
    if re.search(r"given prompt|rewritten prompt|created prompt|new prompt", after, re.IGNORECASE):
        return "it repeats what was asked of the model"
    if not re.search(r"[^\W\d_]{3}", after) or len(after.split()) < 3:
        return "it holds no words to speak of"
    if likeness(words_of(before), words_of(after)) > 0.95:
        return "it says the same as before"
    return None


def replied(tasks: Sequence[tuple[str, int | None, str]], means: Means, step: str) -> Found:
    """Instructions with the model's answers. An answer that was cut off, or that declines, is left out."""
    found: Found = []
    for (task, number, origin), reply in zip(tasks, means.ask([task for task, _, _ in tasks]), strict=True):
        why = no_reply(reply)
        if why is None and means.declines(reply.text):
            why = "the model declines to answer"
        if why is not None:
            found.append(Dropped(origin, f'"{shown(task)}": {why}'))
            continue
        chat = Chat((Message("user", task), Message("assistant", reply.text.strip())), origin)
        found.append(Made(chat, number, f"{step}, answered by {means.writer}"))
    return found
