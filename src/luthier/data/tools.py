"""OpenAI's tool calls as text, in the form that Hermes and Qwen write them: a model learns them like any other answer.

<tool_call>
{"name": "weather", "arguments": {"city": "Oslo"}}
</tool_call>
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from luthier.base.nouns import Message
from luthier.data.text import parse_json

OFFER = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
"""The words of Qwen's and Hermes' own chat templates."""


def calls_of(turn: Mapping[str, Any]) -> list[Any]:
    """The calls of a message: `tool_calls`, or `function_call`, as OpenAI had it before."""
    calls = turn.get("tool_calls")
    if isinstance(calls, list) and calls:
        return calls
    return [{"function": turn["function_call"]}] if isinstance(turn.get("function_call"), dict) else []


def written(calls: list[Any], at: str) -> str:
    """Calls as text. Raises ValueError where one has no name, or arguments that are no JSON object."""
    return "\n".join(_written(call, f"{at}[{index}]") for index, call in enumerate(calls))


def _written(call: Any, at: str) -> str:
    function = call.get("function", call) if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise ValueError(f"{at}: has no function with a name")
    arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        try:
            arguments = parse_json(arguments)
        except ValueError as error:
            raise ValueError(f"{at}.function.arguments: not JSON. Mend it or take the row away") from error
    if arguments in (None, ""):
        arguments = {}
    if not isinstance(arguments, dict):
        raise ValueError(f"{at}.function.arguments: not a JSON object")
    said = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{said}\n</tool_call>"


def with_tools(messages: tuple[Message, ...], fields: Mapping[str, Any]) -> tuple[Message, ...]:
    """The messages, their system message ending in the functions that the row offers (`tools`, or `functions` as it was
    before); as they are where it offers none."""
    tools = fields.get("tools") or fields.get("functions")
    if isinstance(tools, str):
        try:
            tools = parse_json(tools)
        except ValueError:
            return messages
    if not isinstance(tools, list) or not tools or not all(isinstance(tool, dict) for tool in tools):
        return messages
    offer = OFFER.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if messages and messages[0].role == "system":
        return (Message("system", f"{messages[0].content}\n\n{offer}"), *messages[1:])
    return (Message("system", offer), *messages)
