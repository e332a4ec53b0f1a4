"""Benchmarks from a folder, in the shapes that people have them in, as the rows that lm-eval's own tasks read.

Each reader finds its files anywhere below the folder, reads JSON, JSON lines, CSV or Parquet (also .gz), and knows the
hub's columns as well as those of the benchmark's own repository. The YAMLs beside this file name a reader each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from luthier.base.errors import UserError
from luthier.base.nouns import Rejected
from luthier.data.sources import list_files, origin_of, read_rows

Fields = Mapping[str, Any]
LETTERS = "ABCDEFGHIJ"


def rows_of(folder: str, name: str, pattern: str, what: str) -> list[tuple[Fields, str]]:
    """(fields, origin) of all rows of the files below `folder` whose path matches `pattern`.
    Raises UserError where there is none, and on rows that cannot be read, all at once."""
    root = Path(folder).expanduser()
    if not root.exists():
        raise UserError(f"{name}: {folder}: no such folder. Give the one that holds the benchmark's files with --data.")
    files, _ = list_files(name, root)
    found = [file for file in files if re.search(pattern, f"/{file.relative_to(root.parent).as_posix().lower()}")]
    if not found:
        raise UserError(f"{name}: no file below {folder} looks like {what} (.jsonl .json .csv .parquet, also .gz).")
    rows, wrong = [], []
    for file in found:
        for row in read_rows([file], root, None):
            if isinstance(row, Rejected):
                wrong.append(f"{row.origin}: {row.reason}")
            else:
                rows.append((row.fields, row.origin))
        if not rows and not wrong:
            raise UserError(f"{name}: {origin_of(file, root)}: it has no rows.")
    if wrong:
        raise UserError(wrong[:20])
    return rows


def dataset(
    name: str, splits: Mapping[str, list[tuple[Fields, str]]], shape: Callable[[Fields], dict[str, Any]]
) -> Any:
    """The rows in the shape that the task reads, each with its origin, as lm-eval wants them. Raises UserError with
    every row that has not the columns."""
    from datasets import Dataset

    made: dict[str, Any] = {}
    wrong = []
    for split, rows in splits.items():
        shaped = []
        for fields, origin in rows:
            try:
                shaped.append({**shape(fields), "origin": origin})
            except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
                wrong.append(f"{origin}: {name}: {type(error).__name__} {error}: not a row of this benchmark.")
        made[split] = Dataset.from_list(shaped)
    if wrong:
        raise UserError([*wrong[:10], *([f"… and {len(wrong) - 10} more rows"] if len(wrong) > 10 else [])])
    return made


def arc(folder: str, level: str, **_: Any) -> Any:
    """ARC easy or challenge, the test questions."""
    name = f"arc_{level}"
    rows = rows_of(folder, name, rf"arc.*{level}(?!.*(train|dev|valid))", f"ARC {level} (…{level}….jsonl)")
    return dataset(name, {"test": rows}, arc_row)


def arc_row(row: Fields) -> dict[str, Any]:
    """{question, choices, gold}: of the hub, of the authors, or of a prompt that is written out already."""
    if "query" in row:
        question = str(row["query"]).removeprefix("Question:").removesuffix("Answer:").strip()
        return {
            "question": question,
            "choices": list(map(str, row["choices"])),
            "gold": at(row["choices"], row["gold"]),
        }
    if isinstance(row["question"], Mapping):  # {stem, choices: [{text, label}]}
        options = row["question"]["choices"]
        texts, labels = [o["text"] for o in options], [str(o["label"]) for o in options]
        question = row["question"]["stem"]
    else:
        question, texts = row["question"], list(row["choices"]["text"])
        labels = [str(label) for label in row["choices"]["label"]]
    return {"question": str(question), "choices": texts, "gold": labels.index(str(row["answerKey"]))}


def hellaswag(folder: str, **_: Any) -> Any:
    """HellaSwag, the validation questions (those of the test have no public answers)."""
    rows = rows_of(folder, "hellaswag", r"hellaswag(?!.*(train|test))", "HellaSwag (hellaswag…val….jsonl)")
    return dataset("hellaswag", {"validation": rows}, hellaswag_row)


def hellaswag_row(row: Fields) -> dict[str, Any]:
    """{query, choices, gold}, cleaned as lm-eval cleans them. `ctx` alone is "activity: context", joined already."""
    if "ctx_a" in row:
        query = f"{row['activity_label']}: {row['ctx_a']} {str(row['ctx_b']).capitalize()}"
    elif "activity_label" in row:
        query = f"{row['activity_label']}: {row['ctx']}"
    else:
        query = str(row["ctx"])
    return {
        "query": tidy(query),
        "choices": [tidy(e) for e in row["endings"]],
        "gold": at(row["endings"], row["label"]),
    }


def tidy(text: str) -> str:
    """HellaSwag's text without what WikiHow left in it."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def mmlu(folder: str, subject: str, **_: Any) -> Any:
    """One subject of MMLU: its test questions, and the five of dev for the prompt."""
    splits = {}
    for split in ("test", "dev"):
        key = (folder, split)
        if key not in _MMLU:
            rows = rows_of(folder, "mmlu", rf"mmlu.*\b{split}\b", f"MMLU's {split} questions")
            by_subject: dict[str, list[tuple[Fields, str]]] = {}
            for fields, origin in rows:
                by_subject.setdefault(str(fields.get("subject")), []).append((fields, origin))
            _MMLU.clear() if len(_MMLU) > 3 else None
            _MMLU[key] = by_subject
        found = _MMLU[key].get(subject, [])
        if not found:
            raise UserError(f"mmlu: no {split} question of {subject} below {folder}. Is the file whole?")
        splits[split] = found
    return dataset(f"mmlu_{subject}", splits, mmlu_row)


_MMLU: dict[tuple[str, str], dict[str, list[tuple[Fields, str]]]] = {}
"""Rows by (folder, split) and subject: 57 tasks read one file."""


def mmlu_row(row: Fields) -> dict[str, Any]:
    """{question, choices, answer}."""
    return {
        "question": str(row["question"]),
        "choices": list(map(str, row["choices"])),
        "answer": at(row["choices"], row["answer"]),
        "subject": str(row["subject"]),
    }


def truthfulqa(folder: str, **_: Any) -> Any:
    """TruthfulQA's multiple choice."""
    rows = rows_of(folder, "truthfulqa", r"mc_task|truthful.*(mc|multiple)[^/]*$", "TruthfulQA (mc_task.json)")
    return dataset("truthfulqa", {"validation": rows}, truthfulqa_row)


def truthfulqa_row(row: Fields) -> dict[str, Any]:
    """{question, mc1_targets, mc2_targets}, each {choices, labels}; the authors' files have {choice: label}."""
    shaped: dict[str, Any] = {"question": str(row["question"])}
    for name in ("mc1_targets", "mc2_targets"):
        targets = row[name]
        if "choices" not in targets:
            targets = {"choices": list(targets), "labels": list(targets.values())}
        # Some questions have an empty option, which has no likelihood.
        pairs = [pair for pair in zip(targets["choices"], targets["labels"], strict=True) if str(pair[0]).strip()]
        if not any(label for _, label in pairs):
            raise ValueError(f"no true answer among its {name}")
        if name == "mc1_targets":  # the task says that the first is right
            pairs.sort(key=lambda pair: -pair[1])
        shaped[name] = {"choices": [str(c) for c, _ in pairs], "labels": [int(label) for _, label in pairs]}
    return shaped


def gsm8k(folder: str, **_: Any) -> Any:
    """GSM8K: the test problems, and those of train for the prompt."""
    return dataset(
        "gsm8k",
        {
            split: rows_of(folder, "gsm8k", rf"(gsm8k|grade).*{split}|^/[^/]+/{split}\.", f"GSM8K's {split} problems")
            for split in ("test", "train")
        },
        lambda row: {"question": str(row["question"]), "answer": str(row["answer"])},
    )


def at(options: Any, answer: Any) -> int:
    """Which option an answer means: a number from 0, a letter, or the option's own text."""
    texts = [str(option) for option in options]
    if isinstance(answer, str) and answer in texts:
        return texts.index(answer)
    if isinstance(answer, str) and len(answer) == 1 and answer.upper() in LETTERS:
        answer = LETTERS.index(answer.upper())
    if not 0 <= int(answer) < len(texts):
        raise ValueError(f"answer {answer} of {len(texts)} options")
    return int(answer)


def quiz(file: str, **_: Any) -> Any:
    """A task of one's own: a file of questions with options, or with answers."""
    path = Path(file)
    rows = rows_of(str(path), path.stem, "", path.name)
    return dataset(path.stem, {"test": rows}, choice_row if has_options(rows[0][0]) else answer_row)


def has_options(row: Fields) -> bool:
    """Whether a row of one's own is multiple choice."""
    return "choices" in row or "options" in row


def choice_row(row: Fields) -> dict[str, Any]:
    """{question, choices, gold} of a multiple-choice row of one's own."""
    options = first(row, "choices", "options")
    return {"question": str(asked(row)), "choices": list(map(str, options)), "gold": at(options, answer_of(row))}


def answer_row(row: Fields) -> dict[str, Any]:
    """{question, accept} of a row with one right answer, or several."""
    given = first(row, "accept", "answers", "answer", "target", "completion")
    accept = [str(one) for one in given] if isinstance(given, list | tuple) else [str(given)]
    if not accept:
        raise ValueError("no answer")
    return {"question": str(asked(row)), "accept": accept}


def asked(row: Fields) -> Any:
    """The question, whatever it is called."""
    return first(row, "question", "query", "prompt", "context", "ctx")


def answer_of(row: Fields) -> Any:
    """The right option, whatever it is called."""
    return first(row, "gold", "answer", "label", "answerKey", "target")


def first(row: Fields, *names: str) -> Any:
    """The first of some columns that a row has. Raises KeyError where it has none."""
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise KeyError(f"none of the columns {', '.join(names)}")
