"""An endpoint on its bad days, over a real socket. Waits are noted, not waited for."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import replace
from email.utils import formatdate

import pytest

from evals.server import Answer, says, serving
from luthier.base.errors import UserError
from luthier.base.nouns import Message, Reply
from luthier.evals.endpoint import LONGEST_WAIT_S, Endpoint, endpoint_of, seconds_after, skipped


def prompts(*words: str) -> list[list[Message]]:
    return [[Message("system", "Be short."), Message("user", word)] for word in words]


def endpoint(url: str, waits: list[float], **how: object) -> Endpoint:
    given = {"timeout_s": 5.0, "retries": 3, "concurrency": 2, **how}
    return Endpoint(url, "small", wait=waits.append, **given)  # type: ignore[arg-type]


def test_answers_come_in_the_prompts_order_with_what_is_known_of_them():
    def script(asked, before):
        word = asked["messages"][-1]["content"]
        return says(f" {word.upper()}\n", finish="length" if word == "b" else "stop", tokens=len(word))

    with serving(script) as served:
        how = endpoint(served.url, [], max_new_tokens=7, temperature=0.5, seed=11)
        replies = how.ask(prompts("a", "b", "ccc"))
    assert [reply.text for reply in replies] == ["A", "B", "CCC"]
    assert [reply.ended for reply in replies] == [True, False, True]
    assert [reply.tokens for reply in replies] == [1, 1, 3]
    assert all(reply.error is None and reply.seconds > 0 for reply in replies)
    first = next(asked for asked in served.asked if asked["messages"][-1]["content"] == "a")
    assert first == {
        "model": "small",
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "a"}],
        "max_tokens": 7, "temperature": 0.5, "seed": 11,
    }  # fmt: skip
    assert "Authorization" not in served.headers[0]


@pytest.mark.parametrize(
    "rubbish",
    [
        Answer(b"<!doctype html><title>Bad gateway</title>", 502),
        Answer(b"<html><style>p {}</style><p>Sign in to the wifi</p></html>"),
        Answer(b"{not json"),
        Answer(b"[]"),
        Answer(b'{"choices": []}'),
        Answer(b'{"choices": [{"message": null}]}'),
        Answer(b"\xff\xfe\x00"),
        Answer(json.dumps({"choices": [{"message": {"content": 7}}]}).encode()),
        says(None),
        Answer(b'{"choices": [', short=500),
        Answer(b'{"error": {"message": "overloaded"}}', 529),
    ],
    ids=lambda answer: answer.body[:20].decode(errors="replace"),
)
def test_rubbish_is_asked_again(rubbish):
    with serving(lambda asked, before: rubbish if before < 2 else says("yes")) as served:
        waits: list[float] = []
        (reply,) = endpoint(served.url, waits).ask(prompts("a"))
    assert reply.text == "yes" and reply.error is None
    # The second try comes after 0.5 to 1 s, the third after 1 to 2.
    assert len(served.asked) == 3 and 0.5 <= waits[0] <= 1 <= waits[1] <= 2


def test_a_prompt_that_never_gets_an_answer_is_skipped_and_counted():
    def script(asked, before):
        html = Answer(b"<html><body><h1>Bad</h1> gateway</body></html>", 502)
        return html if asked["messages"][-1]["content"] == "cursed" else says("yes")

    with serving(script) as served:
        waits: list[float] = []
        replies = endpoint(served.url, waits).ask(prompts("a", "cursed", "b"))
    assert [reply.text for reply in replies] == ["yes", "", "yes"]
    assert skipped(replies) == {"HTTP 502: Bad gateway": 1}
    assert len(served.asked) == 2 + 4 and len(waits) == 3


def test_a_silent_server_is_waited_for_no_longer_than_said():
    with serving(lambda asked, before: Answer(b"", stall=before == 0) if before == 0 else says("late")) as served:
        (reply,) = endpoint(served.url, [], timeout_s=0.2).ask(prompts("a"))
        assert reply.text == "late" and len(served.asked) == 2
        (reply,) = endpoint(served.url, [], timeout_s=0.2, retries=0).ask(prompts("b"))
    assert reply == Reply("", ended=False, error="no answer within 0.2 s")


def test_retry_after_is_honoured():
    patient = {"0": Answer(b"{}", 429, {"Retry-After": "0"}), "1": Answer(b"{}", 429, {"Retry-After": "17"})}
    with serving(lambda asked, before: patient.get(str(before), says("yes"))) as served:
        waits: list[float] = []
        (reply,) = endpoint(served.url, waits).ask(prompts("a"))
    assert reply.text == "yes" and waits == [0, 17]
    with serving(lambda asked, before: Answer(b"{}", 429, {"Retry-After": "86400"})) as served:
        (reply,) = endpoint(served.url, waits := []).ask(prompts("a"))
    assert reply.error == "HTTP 429: {}, to be asked again in 86400 s" and waits == []
    assert seconds_after(formatdate(0, usegmt=True)) == 0.0 and seconds_after("soon") is None


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "it wants a key"), (403, "it wants a key"), (404, "ends in /v1"), (307, "it points elsewhere")],
)
def test_what_no_patience_mends_is_told_once(status, words):
    answer = Answer(b'{"error": {"message": "No."}}', status, {"Location": "http://127.0.0.1:9/elsewhere"})
    with serving(lambda asked, before: answer) as served, pytest.raises(UserError) as error:
        endpoint(served.url, waits := [], concurrency=1).ask(prompts("a", "b", "c", "d"))
    assert len(error.value.problems) == 1 and words in error.value.problems[0]
    assert len(served.asked) == 1 and waits == []


def test_one_refused_prompt_is_only_that(monkeypatch):
    too_long = Answer(b'{"error": {"message": "maximum context length is 96 tokens"}}', 400)
    script = lambda asked, before: too_long if asked["messages"][-1]["content"] == "long" else says("yes")  # noqa: E731
    with serving(script) as served:
        replies = endpoint(served.url, waits := []).ask(prompts("long", "a"))
    assert [reply.error for reply in replies] == ["HTTP 400: maximum context length is 96 tokens", None]
    assert waits == [] and len(served.asked) == 2


def test_the_newer_name_of_the_limit():
    refuses = Answer(b'{"error": {"message": "Use \'max_completion_tokens\' instead."}}', 400)
    with serving(lambda asked, before: refuses if "max_tokens" in asked else says("yes")) as served:
        replies = endpoint(served.url, [], concurrency=1).ask(prompts("a", "b"))
    assert [reply.text for reply in replies] == ["yes", "yes"]
    assert [("max_tokens" in asked) for asked in served.asked] == [True, False, False]


def test_no_more_questions_at_a_time_than_said():
    meeting = threading.Barrier(3)  # three have to be there at once, or it breaks

    def script(asked, before):
        meeting.wait(timeout=20)
        return says("yes")

    with serving(script) as served:
        replies = endpoint(served.url, [], concurrency=3, timeout_s=30.0).ask(prompts(*"abcdef"))
    assert [reply.text for reply in replies] == ["yes"] * 6
    assert served.most_at_once == 3


def test_a_server_that_is_gone_is_not_asked_for_ever():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    waits: list[float] = []
    replies = endpoint(f"http://127.0.0.1:{port}/v1", waits, retries=2).ask(prompts(*map(str, range(50))))
    found = skipped(replies)
    assert sum(found.values()) == 50 and 3 <= found["nobody listens there"] <= 5
    assert len(waits) <= 2 * 5


def test_the_key_comes_from_the_environment_and_is_never_shown(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-secret-1234\n")
    refusing = Answer(b'{"error": {"message": "Incorrect API key provided: sk-secret-1234."}}', 401)
    with serving(lambda asked, before: refusing) as served, pytest.raises(UserError) as error:
        endpoint(served.url, [], key_env="SOME_KEY").ask(prompts("a"))
    assert served.headers[0]["Authorization"] == "Bearer sk-secret-1234"
    assert "secret" not in str(error.value) and "the key is refused" in str(error.value)
    assert "secret" not in repr(endpoint(served.url, [], key_env="SOME_KEY"))
    with pytest.raises(UserError, match="OTHER_KEY: the environment has no such variable"):
        endpoint(served.url, [], key_env="OTHER_KEY").ask(prompts("a"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")  # for its own host only
    with serving(lambda asked, before: says("yes")) as served:
        endpoint(served.url, []).ask(prompts("a"))
    assert "Authorization" not in served.headers[0]


def test_a_wait_is_never_longer_than_the_longest():
    with serving(lambda asked, before: Answer(b"", 500)) as served:
        (reply,) = endpoint(served.url, waits := [], retries=9).ask(prompts("a"))
    assert reply.error == "HTTP 500" and len(waits) == 9
    assert LONGEST_WAIT_S / 2 <= waits[-1] <= LONGEST_WAIT_S


def test_names_of_endpoints():
    assert endpoint_of("http://localhost:8000/v1/#meta/llama#x") == ("http://localhost:8000/v1", "meta/llama#x")
    with serving(lambda asked, before: says(asked["path"])) as served:
        how = replace(endpoint(served.url, []), url=f"{served.url}/chat/completions?api-version=3")
        assert how.ask(prompts("a"))[0].text == "/v1/chat/completions?api-version=3"
    for name, words in [
        ("http://localhost:8000/v1", "which of its models? Write it behind a #: http://localhost:8000/v1#model."),
        ("https://me:sk-1@host/v1#m", "a key does not belong into an address"),
        ("https:///v1#m", "no address"),
    ]:
        with pytest.raises(UserError) as error:
            endpoint_of(name)
        assert words in str(error.value) and "sk-1" not in str(error.value)
