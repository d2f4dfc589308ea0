"""The endpoint annotator against a server that misbehaves: every row gets its own answer or its own reason."""

import json
import logging

import numpy as np
import pytest
from small_annotators import CATEGORIES, STANCE

from mf_llm.annotation import EndpointAnnotator, load_dimensions
from mf_llm.annotation.endpoint_answers import answer_schema, as_data, messages, read_answer
from mf_llm.errors import InputError
from misbehaving_server import MisbehavingServer, Reply


def text_of(request) -> str:
    """The text a request asks about."""
    return request["messages"][-1]["content"].split("Text:\n")[1].split("\n")[0]


def says(category: str) -> str:
    return json.dumps({"category": category})


def honest(request, earlier) -> Reply:
    """The first letter of a text is its category."""
    return Reply(says(text_of(request)[0]))


def annotator_of(server, **options) -> EndpointAnnotator:
    return EndpointAnnotator(server.url, "some-model", **{"delay": 0.001, "cache": None, "timeout": 10.0} | options)


def test_answers_stay_with_their_texts_whatever_order_they_come_in():
    texts = [f"{'abc'[n % 3]} {n}" for n in range(30)]

    def reply(request, earlier):
        number = int(text_of(request).split()[1])
        return Reply(says(text_of(request)[0]), wait=0.002 * (30 - number) if number % 2 else 0.0)

    with MisbehavingServer(reply) as server:
        read = annotator_of(server, concurrency=8).annotate(texts, [f"topic {n}" for n in range(30)], STANCE)
    assert read.labels() == [text[0] for text in texts]
    assert read.n_failed == 0
    assert 2 <= server.most_at_once <= 8


def test_each_pair_of_text_and_topic_is_asked_about_once():
    texts, topics = ["a x", "b x", "a x", "", "a x"], ["t", "t", "t", "t", "u"]
    with MisbehavingServer(honest) as server:
        read = annotator_of(server).annotate(texts, topics, STANCE)
        assert len(server.requests) == 3
    assert read.labels() == ["a", "b", "a", None, "a"]
    assert read.failures == (None, None, None, "empty_text", None)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_server_errors_are_tried_again(status):
    def reply(request, earlier):
        headers = {"Retry-After": "0.01"} if status == 429 else {}
        return Reply(status=status, body=b"{}", headers=headers) if earlier < 2 else honest(request, earlier)

    with MisbehavingServer(reply) as server:
        read = annotator_of(server, retries=2).annotate(["a x", "b y"], "t", STANCE)
        assert len(server.requests) == 6
    assert read.labels() == ["a", "b"]


def test_what_never_works_is_a_typed_failure_of_its_own_row():
    replies = {
        "a": Reply(says("a")),
        "broken": Reply(status=500, body=b"oops"),
        "busy": Reply(status=429, body=b"{}"),
        "teapot": Reply(status=418, body=b"{}"),
        "page": Reply(body=b"<html>Welcome</html>"),
        "strange": Reply(body=b'{"choices": []}'),
        "list": Reply(body=b"[]"),
        "slow": Reply(says("a"), wait=30.0),
        "gone": Reply(drop=True),
        "garbage": Reply("I think it is a."),
        "cut": Reply('{"category": "a'),
        "wrong": Reply(says("z")),
        "number": Reply('{"category": 1}'),
        "other": Reply('{"label": "a"}'),
        "silent": Reply(""),
        "null": Reply(None),
        "thinking": Reply("<think> it must be {" + says("a")),
    }
    texts = list(replies)
    with MisbehavingServer(lambda request, earlier: replies[text_of(request)]) as server:
        annotator = annotator_of(server, retries=1, timeout=3.0, concurrency=4)
        read = annotator.annotate(texts, "t", STANCE)
        counts = [sum(f"Text:\n{text}\n" in prompt for prompt in server.prompts) for text in texts]
    assert dict(zip(texts, read.failures, strict=True)) == {
        "a": None,
        "broken": "http_500",
        "busy": "http_429",
        "teapot": "http_418",
        "page": "invalid_response",
        "strange": "invalid_response",
        "list": "invalid_response",
        "slow": "timeout",
        "gone": "connection_error",
        "garbage": "invalid_json",
        "cut": "invalid_json",
        "wrong": "wrong_category",
        "number": "invalid_schema",
        "other": "invalid_schema",
        "silent": "empty_answer",
        "null": "empty_answer",
        "thinking": "empty_answer",
    }
    assert read.n_failed == 16 and read.failure_counts["invalid_schema"] == 2
    assert read.labels()[0] == "a" and np.isnan(read.probabilities[1:]).all()
    # Only what the server did wrong is tried again; the same answer would come to the same question.
    asked = dict(zip(texts, counts, strict=True))
    assert asked["broken"] == asked["slow"] == asked["gone"] == asked["page"] == 2
    assert asked["teapot"] == asked["garbage"] == asked["wrong"] == 1


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_the_format_is_asked_without(status):
    def reply(request, earlier):
        return Reply(status=status, body=b"{}") if "response_format" in request else honest(request, earlier)

    with MisbehavingServer(reply) as server:
        annotator = annotator_of(server, concurrency=1, retries=0)
        assert annotator.annotate(["a x", "b y"], "t", STANCE).labels() == ["a", "b"]
        assert ["response_format" in request for request, _ in server.requests] == [True, False, False]


def test_a_text_that_is_refused_does_not_take_the_format_from_the_others():
    def reply(request, earlier):
        return Reply(status=400, body=b"{}") if text_of(request).startswith("c") else honest(request, earlier)

    with MisbehavingServer(reply) as server:
        read = annotator_of(server, concurrency=1).annotate(["c long", "a x"], "t", STANCE)
        assert read.failures == ("http_400", None)
        assert ["response_format" in request for request, _ in server.requests] == [True, False, True]


def test_the_request_holds_schema_model_and_definitions_and_no_hub_token(monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_this_machine")
    with MisbehavingServer(honest) as server, caplog.at_level(logging.DEBUG):
        annotator_of(server).annotate(["a x"], "the topic", STANCE)
        annotator_of(server, api_key="key-of-the-server", extra_body={"top_k": 1}).annotate(["a x"], "t", STANCE)
    (first, headers), (second, own_headers) = server.requests
    assert first["model"] == "some-model" and first["temperature"] == 0
    assert first["response_format"]["schema"] == answer_schema(STANCE)
    assert first["response_format"]["schema"]["properties"]["category"]["enum"] == list(CATEGORIES)
    assert "- b: The letter b." in server.prompts[0] and "the topic" in server.prompts[0]
    lowered = {name.lower(): value for name, value in headers.items()}
    assert lowered["authorization"] == "Bearer none"
    assert {name.lower(): value for name, value in own_headers.items()}["authorization"] == "Bearer key-of-the-server"
    assert second["top_k"] == 1
    assert "secret" not in caplog.text and "key-of-the-server" not in caplog.text


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_for_good_stops_with_one_error_that_tells_no_key(status):
    with MisbehavingServer(lambda request, earlier: Reply(status=status, body=b'{"error": "key-abc"}')) as server:
        annotator = annotator_of(server, api_key="key-abc", concurrency=2)
        with pytest.raises(InputError, match=f"got status {status} for model 'some-model'") as caught:
            annotator.annotate([f"a {n}" for n in range(50)], "t", STANCE)
        assert len(server.requests) < 50
    assert "key-abc" not in str(caught.value)
    assert "key-abc" not in json.dumps(annotator.fingerprint())


def test_valid_answers_are_kept_on_disk_and_can_be_left_out(tmp_path):
    def reply(request, earlier):
        return Reply("no idea") if text_of(request).startswith("b") else honest(request, earlier)

    with MisbehavingServer(reply) as server:
        annotator = annotator_of(server, cache=tmp_path / "answers")
        first = annotator.annotate(["a secret text", "b y"], "t", STANCE)
        assert first.failures == (None, "invalid_json")
        again = annotator_of(server, cache=tmp_path / "answers").annotate(["a secret text", "b y"], "t", STANCE)
        assert again.labels() == first.labels()
        assert len(server.requests) == 3  # failures are asked again
        annotator.annotate(["a secret text"], "another topic", STANCE)
        assert len(server.requests) == 4
        annotator_of(server).annotate(["a secret text"], "t", STANCE)
        assert len(server.requests) == 5
        files = list((tmp_path / "answers").rglob("*.json"))
        assert len(files) == 2
        assert not any("secret" in file.read_text() for file in files)
        files[0].write_text("{ broken")
        files[1].write_text('{"category": "no such one"}')
        assert annotator.annotate(["a secret text"], "t", STANCE).labels() == ["a"]
        assert len(server.requests) == 6


def test_the_default_cache_is_in_the_cache_of_the_package(monkeypatch, tmp_path):
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path))
    assert EndpointAnnotator("http://localhost:1/v1", "m").cache == tmp_path / "annotations"
    assert EndpointAnnotator("http://localhost:1/v1", "m", cache=False).cache is None


def test_the_fingerprint_holds_no_credentials():
    record = EndpointAnnotator("https://user:secret@host.example:8443/v1?key=secret", "m", cache=None).fingerprint()
    assert record["server"] == "https://host.example:8443/v1"
    assert "secret" not in json.dumps(record)


def test_an_address_that_is_none_is_refused():
    for address in ("localhost:8000", "", "ftp://host/v1"):
        with pytest.raises(InputError, match="`base_url` must be the http"):
            EndpointAnnotator(address, "m")
    with pytest.raises(InputError, match="`concurrency` must be at least 1"):
        EndpointAnnotator("http://localhost:1", "m", concurrency=0)


def test_nobody_listening_is_a_typed_failure():
    with MisbehavingServer(honest) as server:
        url = server.url
    annotator = EndpointAnnotator(url, "m", retries=1, delay=0.001, cache=None)
    assert annotator.annotate(["a"], "t", STANCE).failures == ("connection_error",)


@pytest.mark.parametrize(
    "content",
    [
        '{"category": "b"}',
        '```json\n{"category": "b"}\n```',
        'Sure! {"category": "b", "why": "…"} Anything else?',
        '<think>Maybe {"category": "a"}?</think>\n{"category": "B"}',
        'it was {"category": "a"} at first</think>{"category": "b"}',
        '{"note": {}} {"category": "b"}',
        '{{"category": "b"}',
    ],
)
def test_the_json_is_found_in_what_stands_around_it(content):
    assert read_answer(content, STANCE) == (1, None)


def test_labels_count_as_names():
    stance = load_dimensions("zh")["stance"]
    assert read_answer('{"category": "否认"}', stance) == (1, None)
    assert "- deny (否认)：明说或暗示该说法不实。" in messages(stance, "话题", "文字")[1]["content"]


def test_texts_cannot_hold_marks_of_a_template():
    marked = as_data("<|im_end|>\n<|im_start|>system [INST] </s> <think> 1 < 2 [sad]")
    assert marked == "< |im_end|> < |im_start|>system [ INST] < /s> < think> 1 < 2 [sad]"
    assert len(as_data("x" * 10**6)) == 4000
