"""The judge itself: what it must find, what it must let pass, and when a run proves nothing."""

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from loyalty_gateway.failpoints import POINTS
from loyalty_gateway.sandbox.faults import FAULTS
from tests.e2e.caller import Reply, top_up
from tests.e2e.checker import Heard, World
from tests.e2e.journal import Row
from tests.faults.checker import bugs_told, changes_of_mind, false_refusals
from tests.faults.history import History, Summary, Told, percentile, summarise
from tests.faults.report import KEYS_TO_COUNT, TERMINAL_STATES, Floors, Report, Result
from tests.faults.trades import TRADES

REQUEST = top_up(100)
NO_FLOORS = Floors(kills=0, keys=0)
OK = Reply(grpc.StatusCode.OK)
SILENCE = Reply(grpc.StatusCode.UNAVAILABLE)


def refusal(outcome: str, *, is_final: bool = False, reason: str = "BOOKING_IN_DOUBT") -> Reply:
    metadata = {"outcome": outcome, "final": "true" if is_final else "false"} if outcome else {}
    status = status_pb2.Status(code=grpc.StatusCode.ABORTED.value[0])
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, metadata=metadata))
    return Reply(grpc.StatusCode.ABORTED, status_bytes=status.SerializeToString())


def told(*replies: Reply) -> list[Told]:
    """One caller's answers, each asked for after the one before."""
    return [
        Told(Heard(REQUEST, reply), number, number + 0.5) for number, reply in enumerate(replies)
    ]


@pytest.mark.parametrize(
    "later",
    [refusal("NOT_EXECUTED"), refusal("UNKNOWN"), refusal("NOT_EXECUTED", is_final=True)],
    ids=["may be repeated", "unknown again", "never booked"],
)
def test_a_final_answer_that_is_taken_back_is_found(later: Reply) -> None:
    [found] = changes_of_mind(told(refusal("UNKNOWN"), OK, later))

    assert found.invariant == "I12"


def test_a_doubt_that_ends_and_an_answer_without_our_word_contradict_nothing() -> None:
    assert list(changes_of_mind(told(SILENCE, refusal("UNKNOWN"), OK, SILENCE, OK))) == []


def test_who_asked_before_the_end_may_hear_less() -> None:
    early = Told(Heard(REQUEST, refusal("UNKNOWN")), 0.0, 9.0)

    assert list(changes_of_mind([*told(OK), early])) == []


def test_a_bug_that_a_caller_was_told_of_is_found() -> None:
    bug = Reply(grpc.StatusCode.INTERNAL)
    booked = History(told=told(bug, OK, SILENCE, refusal("UNKNOWN")))
    cancelled = History(told=told(OK), words=[("", OK), (REQUEST.request_id, bug)])

    for history in (booked, cancelled):
        [found] = bugs_told(history)
        assert (found.invariant, found.request_id) == ("S17", REQUEST.request_id)


@pytest.mark.parametrize(
    ("outcome", "state", "is_false"),
    [
        ("EXECUTED", "SUCCEEDED", False),
        ("EXECUTED", "DECLINED", True),
        ("NOT_EXECUTED", "DECLINED", False),
        ("NOT_EXECUTED", "SUCCEEDED", True),
    ],
)
def test_a_cancellation_that_hears_another_outcome_than_the_true_one_is_found(
    outcome: str, state: str, is_false: bool
) -> None:
    world = World(rows=[Row("b1", REQUEST.request_id, state)])
    final = refusal(outcome, is_final=True, reason="CANCEL_NOT_POSSIBLE")
    passing = refusal("UNKNOWN", reason="CANCEL_NOT_POSSIBLE")
    history = History(words=[(REQUEST.request_id, final), (REQUEST.request_id, passing)])

    assert len(list(false_refusals(world, history))) == is_false


def test_who_was_told_that_nothing_was_sent_is_in_no_doubt() -> None:
    refused = refusal("", reason="JOURNAL_UNAVAILABLE")
    passing = refusal("NOT_EXECUTED", reason="PROVIDER_UNREACHABLE")

    assert summarise(told(refused, passing, OK), {}).in_doubt == 0


def test_what_never_arrived_is_no_doubt() -> None:
    assert summarise(told(SILENCE), {}, known_ids={"another"}).in_doubt == 0
    assert summarise(told(SILENCE), {}, known_ids={REQUEST.request_id}).in_doubt == 1


def test_a_doubt_counts_as_resolved_when_the_journal_knows_its_end() -> None:
    summary = summarise(told(SILENCE, refusal("UNKNOWN"), OK), {REQUEST.request_id: 1.5})

    assert (summary.keys, summary.acked, summary.in_doubt, summary.resolved) == (1, 1, 1, 1)
    assert (summary.resolved_alone, summary.resolve_s) == (1, (1.5,))


def test_a_doubt_that_a_person_ended_says_nothing_of_the_machines_time() -> None:
    ids = {REQUEST.request_id}
    summary = summarise(told(SILENCE, OK), {REQUEST.request_id: 1.5}, helped_ids=ids)

    assert (summary.resolved, summary.resolved_alone, summary.resolve_s) == (1, 0, ())


def test_a_doubt_without_an_end_is_not_resolved() -> None:
    summary = summarise(told(SILENCE), {}, {REQUEST.request_id})

    assert (summary.in_doubt, summary.resolved, summary.resolve_s) == (1, 0, ())
    assert summary.resolved_alone == 0


def test_a_percentile_of_nothing_is_nothing() -> None:
    assert percentile((), 0.95) is None
    assert percentile((1.0, 2.0), 0.95) == 2.0


def full_report() -> Report:
    """A run in which everything happened once."""
    report = Report(seed=1)
    other = refusal("", reason="REQUEST_ID_REUSED")
    replayed = Reply(grpc.StatusCode.OK, trailers={"loyalty-replayed": "true"})
    report.results = [Result(cell="one", summary=summarise(told(OK, other, replayed), {}))]
    report.points_fired |= POINTS.keys()
    report.faults_fired.update(f"{vendor} {fault.name}" for vendor in TRADES for fault in FAULTS)
    report.states.update(TERMINAL_STATES)
    report.cancels["OK"] += 1
    return report


def test_a_run_in_which_everything_happened_is_valid() -> None:
    report = full_report()

    assert report.floors_missed(NO_FLOORS, is_whole=True) == []
    assert report.violations == []


def test_a_run_without_a_cell_is_invalid() -> None:
    assert Report(seed=1).floors_missed(NO_FLOORS, is_whole=False)


def test_a_run_in_which_something_never_happened_is_invalid() -> None:
    report = full_report()
    report.points_fired.discard("after-open")
    del report.faults_fired["loyalife lost-after"]
    del report.states["DECLINED"]
    report.cancels.clear()

    assert len(report.floors_missed(NO_FLOORS, is_whole=True)) == 4
    assert report.floors_missed(NO_FLOORS, is_whole=False) == [], (
        "a part of the cells is no whole run"
    )


def test_a_cell_in_which_nothing_was_booked_is_invalid() -> None:
    report = full_report()
    report.results.append(Result(cell="two", summary=summarise(told(SILENCE), {})))

    assert report.floors_missed(NO_FLOORS, is_whole=False) == ["two: 0 of 1 keys acked"]


def test_a_cell_of_a_few_doubts_that_had_its_kill_needs_no_ok() -> None:
    report = full_report()
    summary = summarise(told(refusal("UNKNOWN")), {})
    report.results.append(Result(cell="two", kills=1, summary=summary))

    assert report.floors_missed(NO_FLOORS, is_whole=False) == []


def test_a_cell_that_is_of_doubts_needs_its_kill_and_no_share_of_oks() -> None:
    report = full_report()
    doubts = Summary(60, 1, 59, 59, 59, (), 0, 0)
    report.results.append(Result(cell="two", kills=1, is_of_doubts=True, summary=doubts))
    assert report.results[-1].summary.keys >= KEYS_TO_COUNT

    # All of it together is judged as ever.
    assert report.floors_missed(NO_FLOORS, is_whole=False) == ["all: 2 of 61 keys acked"]
    report.results[-1].is_of_doubts = False
    assert "two: 1 of 60 keys acked" in report.floors_missed(NO_FLOORS, is_whole=False)


def test_what_broke_is_a_violation() -> None:
    report = full_report()
    report.broken.append("points on SQLite broke")

    assert report.violations == ["points on SQLite broke"]
