"""Codes from outside: sent once whatever is lost or killed, checked once, and written nowhere."""

import sqlite3
from contextlib import closing

import grpc

from loyalty.v1 import wallets_pb2
from tests.e2e.caller import new_request_id
from tests.e2e.canaries import search
from tests.e2e.house import House

EMAIL = "m8124@example.com"
CODE = "000000"
"""The right one, always: nothing leaves the sandbox."""


def a_wish(request_id: str, email: str = EMAIL) -> wallets_pb2.CreateChallengeRequest:
    return wallets_pb2.CreateChallengeRequest(
        connection="loyalife",
        purpose=wallets_pb2.CHALLENGE_PURPOSE_LOG_IN,
        email=email,
        request_id=request_id,
    )


def a_check(token: str, code: str = CODE) -> wallets_pb2.VerifyChallengeRequest:
    return wallets_pb2.VerifyChallengeRequest(challenge_token=token, code=code)


async def codes_sent(house: House) -> int:
    """How often the vendor was asked to send one."""
    exchanges = await house.vendors["loyalife"].exchanges()
    return sum("GenerateOTP" in exchange.path for exchange in exchanges)


async def test_a_code_is_sent_once_over_repeats_and_a_killed_server(house: House) -> None:
    wish = a_wish(new_request_id())
    first = await house.caller.call(wish)
    again = await house.caller.call(wish)
    await house.kill_server()
    await house.start_server()
    after = await house.caller.call(wish)
    verified = await house.caller.call(a_check(after.response.challenge_token))

    assert first.is_ok, str(first)
    assert first.body == again.body == after.body
    assert first.response.masked_destination == "m••••@e••••••••••"
    assert await codes_sent(house) == 1
    assert verified.is_ok, str(verified)
    (account,) = verified.response.accounts
    assert account.masked_id == "•••124"


async def test_a_lost_answer_sends_no_second_code_and_the_first_can_be_used(
    shared_house: House,
) -> None:
    house = shared_house
    before = await codes_sent(house)
    wish = a_wish(new_request_id())
    lost = await house.caller.call(wish, fault="lost-after")
    again = await house.caller.call(wish)
    verified = await house.caller.call(a_check(again.response.challenge_token))

    assert lost.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (lost.reason, lost.outcome, lost.is_final) == ("PROVIDER_PENDING", "UNKNOWN", False)
    assert lost.retry_delay_s is not None
    assert again.is_ok, str(again)
    assert verified.is_ok, str(verified)
    assert await codes_sent(house) == before + 1


async def test_a_wrong_code_is_the_callers_and_a_used_one_is_used_up(shared_house: House) -> None:
    house = shared_house
    sent = await house.caller.call(a_wish(new_request_id()))
    token = sent.response.challenge_token
    wrong = await house.caller.call(a_check(token, "123456"))
    right = await house.caller.call(a_check(token))
    twice = await house.caller.call(a_check(token))
    made_up = await house.caller.call(a_check("sandbox.bWFkZSB1cA"))

    assert wrong.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (wrong.reason, wrong.info.metadata["field"]) == ("CODE_INVALID", "code")
    assert right.is_ok, str(right)
    assert twice.reason == "CODE_INVALID"
    assert (made_up.reason, made_up.info.metadata["field"]) == (
        "REQUEST_INVALID",
        "challenge_token",
    )


async def test_no_address_and_no_code_is_written_down(shared_house: House) -> None:
    house = shared_house
    code = "73519482"
    wish = a_wish(new_request_id())
    sent = await house.caller.call(wish)
    await house.caller.call(a_check(sent.response.challenge_token, code))
    unknown = await house.caller.call(a_wish(new_request_id(), "nobody-of-all@example.com"))
    with closing(sqlite3.connect(house.home.journal)) as connection:
        rows = connection.execute("SELECT * FROM challenge").fetchall()

    assert unknown.reason == "ACCOUNT_NOT_FOUND"
    assert any(wish.request_id in row for row in rows), "the journal was read at all"
    journal = house.home.journal.parent
    places = {file.name: file.read_bytes() for file in journal.iterdir()}
    places |= {name: house.home.log(name).read_bytes() for name in ("server", "traces")}
    for secret in (EMAIL, code, "nobody-of-all@example.com", sent.response.challenge_token):
        assert search(secret, places) == []
