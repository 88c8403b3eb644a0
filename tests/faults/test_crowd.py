"""The judge of the crowd finds what is wrong with an answer, or invariant I1 would mean nothing."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))

from crowd import End, judge, steady  # noqa: E402


def event(content=None, finish=None, nonce="sim-1"):
    return b"data: " + json.dumps({
        "id": "x", "system_fingerprint": nonce,
        "choices": [{"index": 0, "delta": {"content": content} if content else {},
                     "finish_reason": finish}]}, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"lost"}}\n\n'
WHOLE = event("one") + event(" two") + event(finish="stop") + DONE
EXPECTED = {"text": "one two", "body": steady(WHOLE)}
RESUMED = event("one") + event(" two", nonce="sim-2") + event(finish="stop", nonce="sim-2") + DONE


@pytest.mark.parametrize("body, end", [
    (WHOLE, End.OK),
    (RESUMED, End.OK),
    (b": drover queued pos=1 eta=2s\n\n: drover prefill\n\n" + WHOLE, End.OK),
    (event("one") + ERROR + DONE, End.ERROR_EVENT),
    (ERROR + DONE, End.ERROR_EVENT),
], ids=["whole", "gone on", "slow to begin", "broken off", "nothing but an error"])
def test_a_right_end_is_no_complaint(body, end):
    assert judge("chat", body, EXPECTED) == (end, None)


@pytest.mark.parametrize("body", [
    event("one") + event(" three") + event(finish="stop") + DONE,
    event("one") + event("one") + event(" two") + event(finish="stop") + DONE,
    event("one") + DONE,
    event("one") + event(" two") + event(finish="stop") + event(finish="stop") + DONE,
    event("two") + ERROR + DONE,
    event("one") + ERROR + event(" two") + DONE,
    event("one") + ERROR + ERROR + DONE,
    event("one") + event(finish="stop") + ERROR + DONE,
    WHOLE.replace(b'"index":0', b'"index":1'),
], ids=["a wrong word", "a word twice", "short, but tidy", "two ends", "wrong before the error",
        "words after the error", "two errors", "whole and failed", "other bytes"])
def test_a_wrong_answer_is_a_complaint(body):
    assert judge("chat", body, EXPECTED)[1]


def test_an_answer_that_is_no_stream_is_judged_too():
    def whole(**document):
        return json.dumps(document).encode()
    good = whole(choices=[{"message": {"content": "one two"}}])
    assert judge("whole", good, EXPECTED) == (End.OK, None)
    assert judge("whole", whole(choices=[{"message": {"content": "one"}}]), EXPECTED)[1]
    assert judge("whole", whole(error={"message": "x"}), EXPECTED)[1]
