"""The light initiator: an ordinary responder takes it for a peer, and it notices what is not right."""

from dataclasses import replace
from functools import cache
from ipaddress import IPv4Address

import pytest

from stockade.bench.ike import task_of
from stockade.bench.ike_cheap_keys import CheapRsa, verifier
from stockade.bench.ike_initiator import Task
from stockade.bench.ike_light import Handshake, Refused, Templates
from stockade.bench.ike_pki import make_pki
from stockade.bench.ike_responders import RESPONDER, Pki
from stockade.bench.ike_split import two_engines
from stockade.crypto.signatures import PrivateKey
from stockade.ike.contract import InstallSa, Send
from stockade.ike.engine import Engine
from stockade.model.addresses import Endpoint

LOCAL, REMOTE = IPv4Address("10.64.0.1"), IPv4Address(RESPONDER)


@cache
def _pki() -> Pki:
    return make_pki()


def _answer(engine: Engine, message: bytes) -> tuple[list[bytes], int]:
    """What the responder sends, and how many SAs it makes."""
    engine.receive(message, Endpoint(REMOTE, 500), Endpoint(LOCAL, 500), 0.0)
    effects = engine.effects()
    sent = [one.datagram for one in effects if isinstance(one, Send)]
    return sent, sum(isinstance(one, InstallSa) for one in effects)


def _drive(engine: Engine, task: Task) -> tuple[Handshake, int, int]:
    """The handshake, the messages it sent, and the SAs that came of it."""
    handshake, sent, sas = Handshake(Templates(task), LOCAL), 0, 0
    while handshake.message:
        message, handshake.message = handshake.message, b""
        sent += 1
        answers, made = _answer(engine, message)
        sas += made
        for answer in answers:
            handshake.take(answer)
    return handshake, sent, sas


@pytest.mark.parametrize("group", ["curve-25519", "ecp-256", "modp-2048"])
@pytest.mark.parametrize("method", ["psk", "rsa"])
def test_a_main_and_a_quick_mode_come_up(method: str, group: str) -> None:
    pki = _pki() if method == "rsa" else None
    engine, _, _ = two_engines(group, pki, 1)
    handshake, sent, sas = _drive(engine, task_of(group, pki, count=1))
    assert (handshake.done, sent, sas) == (True, 5, 2)
    assert engine.statistics["quick_modes"] == 1


def test_as_windows_it_waits_for_the_word_that_the_commit_bit_announces() -> None:
    engine, _, _ = two_engines("curve-25519", None, 1)
    task = replace(task_of("curve-25519", None, count=1), windows=True)
    handshake = Handshake(Templates(task), LOCAL)
    answers: list[bytes] = []
    for _ in range(5):
        assert not handshake.done
        answers, _made = _answer(engine, handshake.message)
        if answers[0][18] == 32 and answers[0][19] & 2:
            handshake.take(answers[0])
            assert not handshake.take(answers[0])  # the same again is not the word
        else:
            handshake.take(answers[0])
    assert handshake.done
    assert len(answers) == 1


def test_main_mode_alone_ends_before_quick_mode() -> None:
    engine, _, _ = two_engines("curve-25519", None, 1)
    handshake, sent, sas = _drive(engine, task_of("curve-25519", None, count=1, main_only=True))
    assert (handshake.done, sent, sas) == (True, 3, 0)


def test_what_the_responder_refuses_is_told_by_its_number() -> None:
    engine, _, _ = two_engines("curve-25519", None, 1)
    task = replace(task_of("curve-25519", None, count=1), preshared_key="another")
    with pytest.raises(Refused, match="notification 24"):
        _drive(engine, task)


def test_a_proof_that_is_not_the_responders_is_noticed() -> None:
    engine, _, _ = two_engines("curve-25519", None, 1)
    handshake = Handshake(Templates(task_of("curve-25519", None, count=1)), LOCAL)
    for _ in range(2):
        handshake.take(_answer(engine, handshake.message)[0][0])
    last = bytearray(_answer(engine, handshake.message)[0][0])
    last[50] ^= 1
    with pytest.raises((Refused, KeyError)):
        handshake.take(bytes(last))


def test_a_key_of_many_primes_signs_what_others_verify() -> None:
    key, digest = CheapRsa.make(), bytes(range(32))
    signature = key.signer()(digest)
    modulus = key.public_key.public_numbers().n
    assert modulus.bit_length() == 2048
    verify = verifier(modulus)
    assert verify(signature, digest)
    assert not verify(signature, bytes(32))


def test_a_responders_signature_is_verified_with_its_own_key() -> None:
    pki = _pki()
    signature = PrivateKey.load(pki.responder[1]).sign_ike(bytes(range(32)))
    verify = verifier(int(pki.cheap.responder_modulus))
    assert verify(signature, bytes(range(32)))
