"""What goes well: requests as the vendor documents them, answers with what was asked for."""

from typing import Final

from loyalty_gateway.conformance.duties.duty import Duty, to_any, to_questions
from loyalty_gateway.conformance.stage import Stage
from loyalty_gateway.domain.operations import (
    CHALLENGE_OPERATIONS,
    CardFacts,
    CardPage,
    Confirmed,
    CredentialsFacts,
    ExpirySchedule,
    Issued,
    ItemPage,
    LinkedAccounts,
    Operation,
    PointsStatement,
    TransactionPage,
)
from loyalty_gateway.providers.port import Lookup


async def finds_what_is_there(stage: Stage, operation: Operation) -> None:
    ask = await stage.ask(operation)
    found = await ask.send()
    if operation not in CHALLENGE_OPERATIONS:
        assert stage.books() == ask.before, "a read has changed the vendor's books"
    match found:
        case CardFacts():
            assert isinstance(ask.content, Lookup)
            assert found.account_id == ask.content.account_id, "it is about another account"
        case CardPage():
            assert found.cards, "a search for an account that is there finds nothing"
        case TransactionPage():
            assert found.transactions, "a history that has lines comes back empty"
            times = [line.time for line in found.transactions]
            assert times == sorted(times, reverse=True), "a history is newest first"
            assert all(line.reference for line in found.transactions), "a line has no reference"
        case ItemPage():
            assert found.items, "a sale that has items comes back empty"
        case ExpirySchedule():
            dates = [period.date for period in found.periods]
            assert dates == sorted(dates), "what ends first comes first"
        case Confirmed():
            assert found.account_ids or found.proof, "what was confirmed gives nothing"
        case CredentialsFacts():
            assert found.is_verified, "the right credentials are not verified"
        case PointsStatement() | LinkedAccounts() | Issued():
            pass
        case _:
            raise AssertionError(f"{type(found).__name__} is no answer to {operation}")


async def requests_fit_the_document(stage: Stage, operation: Operation) -> None:
    ask = await stage.ask(operation)
    await ask.send()
    problems = [f"{it.path} {it.where} {it.problem}" for it in stage.player.stage.violations]
    assert not problems, f"requests that do not fit the vendor's document: {problems}"


DUTIES: Final = (
    Duty(
        "fits-document",
        "everything that is sent fits the vendor's own document, to the letter",
        to_any,
        requests_fit_the_document,
    ),
    Duty(
        "finds",
        "a question about what is there is answered with it, and changes nothing",
        to_questions,
        finds_what_is_there,
    ),
)
