"""What is remembered from peer to peer must never be taken for something else."""

from functools import partial

from stockade.ike.timers import TimerQueue
from stockade.ike.v1.proposals import Remembered
from stockade.wire.isakmp.message import decode_payloads, encode_payloads
from stockade.wire.isakmp.payloads import TransformPayload, VendorIdPayload


def test_a_result_is_of_its_subject_and_of_the_other_arguments() -> None:
    calls: list[tuple[int, str]] = []

    def shout(number: int, word: str) -> str:
        calls.append((number, word))
        return word.upper() * number

    remembered = Remembered(shout)
    word = "ab"
    assert remembered(word, 2, word) == "ABAB"
    assert remembered(word, 2, word) == "ABAB"
    assert calls == [(2, "ab")]
    assert remembered(word, 1, word) == "AB"  # the same subject, other arguments


def test_the_memory_is_bounded_and_a_reused_identity_is_no_other_subject() -> None:
    remembered = Remembered(lambda transform: transform.number)
    for number in range(1000):
        # Objects that nobody else keeps: their identities come again.
        transform = TransformPayload(number % 256, number // 256)
        assert remembered(transform, transform) == number % 256
    assert len(remembered._known) <= 256


def test_vendor_ids_are_read_whole_however_many_there_were() -> None:
    sent = [VendorIdPayload(number.to_bytes(3, "big") * (1 + number % 40)) for number in range(600)]
    for start in range(0, len(sent), 60):
        part = sent[start : start + 60]
        first, body = encode_payloads(part)
        assert [entry.payload for entry in decode_payloads(first, body)] == part


def test_an_encoded_transform_is_compared_and_shown_without_its_bytes() -> None:
    one, other = TransformPayload(1, 12), TransformPayload(1, 12)
    assert one.encode_body() == one.encode_body()
    assert one == other
    assert hash(one) == hash(other)
    assert repr(one) == repr(other)


def _note(called: list[int], number: int, now: float) -> None:
    called.append(number)


def test_a_deadline_set_again_for_the_same_time_takes_no_room() -> None:
    queue = TimerQueue()
    called: list[int] = []
    for number in range(50):
        queue.set("owner", 5.0, partial(_note, called, number))
    assert len(queue._heap) == 1
    queue.run(5.0)
    assert called == [49]
