"""What a generator's makers say about training on its output, in plain words. A reading aid, no legal advice.

Terms change: each has the name and, where known, the date of the text that was read. Where a text can be read in two
ways, the stricter is meant, and what nobody here has read is unknown.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from luthier.data.curate.licence_table import Terms


class Output(NamedTuple):
    """The terms of one family of generators."""

    pattern: str
    """Of its names, small letters."""
    text: str
    """Which terms were read, with their date as far as it is known."""
    says: str
    """What they say about a model that is trained on the output."""
    commercial: bool | None
    """None: it depends on whether the new model competes with the maker's, which a person must judge."""
    share: bool | None = True


COMPETE = "output may not be used to develop models that compete with {}; whether yours does, a person must judge"
FREE = "the licence puts no conditions on what the model writes"

OUTPUTS: tuple[Output, ...] = (
    Output(
        r"gpt-?oss",
        "Apache-2.0 (gpt-oss, August 2025)",
        FREE,
        True,
    ),
    Output(
        r"openai|chat-?gpt|\bgpt-?[2345]|davinci|curie|babbage|\bo[134](-|$)|codex",
        "OpenAI Terms of Use (December 2024) and Services Agreement (2025)",
        COMPETE.format("OpenAI's"),
        None,
    ),
    Output(
        r"anthropic|claude",
        "Anthropic Commercial Terms of Service (2025)",
        COMPETE.format("Anthropic's"),
        None,
    ),
    Output(
        r"gemma-?4",
        "Apache-2.0 (Gemma 4, April 2026)",
        FREE,
        True,
    ),
    Output(
        r"gemma",
        "Gemma Terms of Use (2024, last seen April 2026)",
        "a model trained to work like Gemma on its output is a derivative of Gemma: Gemma's terms and its list of "
        "forbidden uses go with it",
        True,
    ),
    Output(
        r"google|gemini|\bbard|palm-?2",
        "Gemini API Additional Terms of Service (May 2025)",
        COMPETE.format("Google's services"),
        None,
    ),
    Output(
        r"llama-?(3\.[123]|4|guard-?[34])",
        "Llama 3.1 to 4 Community Licences (from July 2024)",
        'allowed; the new model\'s name begins with "Llama" and "Built with Llama" is shown; above 700 million monthly '
        "users Meta must agree",
        True,
    ),
    Output(
        r"llama|alpaca|vicuna",
        "Llama 2 and Llama 3 Community Licences (July 2023, April 2024)",
        "output may not be used to improve any other large language model than Llama itself",
        False,
    ),
    Output(
        r"codestral|mistral-?large|mistral-?medium|ministral|pixtral-?large",
        "Mistral Research and Non-Production Licences (2024)",
        "the model and its output are for research and tests only, unless a commercial licence was bought",
        False,
    ),
    Output(
        r"open-?mistral|mistral-?7b|mixtral|mistral-?(nemo|small)|zephyr|magistral-?small|devstral-?small",
        "Apache-2.0 (Mistral's open models)",
        FREE,
        True,
    ),
    Output(
        r"qwen-?2(\.5)?-?(vl-?)?(72b|3b)",
        "Qwen Licence and Qwen Research Licence (September 2024)",
        'a model made with the output shows "Built with Qwen" or "Improved using Qwen"; the 3B models are for research '
        "only, and above 100 million monthly users Alibaba must agree",
        None,
    ),
    Output(
        r"qwen-?(1\.5|72b|14b|7b|1-)|tongyi|qwen-?(max|plus|turbo)",
        "Tongyi Qianwen Licence (2023) and Alibaba Cloud's terms",
        "output may not be used to improve other large language models",
        False,
    ),
    Output(
        r"qwen-?(2|2\.5|3|3\.5)|qwq",
        "Apache-2.0 (Qwen2, Qwen2.5 and Qwen3 but for some sizes)",
        FREE,
        True,
    ),
    Output(
        r"deepseek-?(r1|v3-0324|v3\.[12])",
        "MIT (DeepSeek-R1 and later)",
        FREE + "; distillation is allowed by name",
        True,
    ),
    Output(
        r"deepseek",
        "DeepSeek Model Licence and Terms of Use",
        "whether training on output is allowed depends on the version and on who served it",
        None,
    ),
    Output(r"phi-?[234]", "MIT (Microsoft's Phi from January 2024)", FREE, True),
    Output(r"olmo|tulu|smollm|granite|stablelm-zephyr|pythia|falcon-?(7b|40b|3)|mpt-", "Apache-2.0", FREE, True),
    Output(r"command-?(r|a)|aya|c4ai", "CC-BY-NC-4.0 (Cohere's open weights) and Cohere's Terms",
           "for non-commercial purposes only", False),
    Output(r"grok|xai", "xAI Terms of Service", COMPETE.format("xAI's"), None),
    Output(r"nemotron", "NVIDIA Open Model Licence (2024)", "NVIDIA claims nothing of the output", True),
    Output(r"^yi-|glm-4\.[56]|minimax-m[12]|kimi-k2", "MIT or Apache-2.0", FREE + "; some ask to be named", True),
)  # fmt: skip
"""The first that fits counts."""

SCRIPTS = re.compile(r"^(luthier|rule|rules|script|template|heuristic|regex|program)\b", re.IGNORECASE)
"""A generator that is no model: nobody's terms bind its output."""

PHRASES: tuple[tuple[str, bool | None], ...] = (
    (r"non-?commercial|research[- ]only|research purposes|no commercial", False),
    (r"no (other|competing) (language )?models?|compet", None),
    (r"^(no|without) (restrictions?|conditions?|terms)|unrestricted|^free$|^none$|^allowed$|^commercial( use)? (is )?"
     r"(ok|allowed|permitted)", True),
)  # fmt: skip
"""What a recipe's own words on terms mean, by the first that fits."""


def family_of(generator: str) -> Output | None:
    """The terms of the family that a generator's name belongs to."""
    name = generator.casefold().replace("_", "-").replace(" ", "-")
    return next((output for output in OUTPUTS if re.search(output.pattern, name)), None)


def is_script(generator: str) -> bool:
    """Whether it names rules and no model."""
    return SCRIPTS.match(generator.strip()) is not None


def meant(words: str) -> Terms | None:
    """What terms in a person's own words allow; None where they say nothing that is understood."""
    text = words.strip().casefold()
    for pattern, commercial in PHRASES:
        if re.search(pattern, text):
            return Terms(commercial, True, field=None if commercial else words.strip())
    return None
