"""Where each way of hurting a gateway is tried, and who judges what came of it; data alone.

docs/guarantees.md prints these tables. Each place is the dotted name of a function of this
repository: a cell of a fault run, or a test. `points` and `faults` are the failpoints and the
sandbox's faults that belong to a row.
"""

from typing import Final

from tests.faults.invariants import INVARIANTS
from tests.faults.plan_of_vendors import VENDORS
from tests.faults.rows import Row, Untried

__all__ = ["DATABASES", "INVARIANTS", "KILLS", "PLAN", "TIMES", "UNTRIED", "VENDORS"]

_KILLED: Final = ("tests.faults.cells.points",)

KILLS: Final = (
    Row(
        "K1",
        "killed after the checks of a booking, before anything is written",
        "nothing was sent; the repeated call books once",
        _KILLED,
        points=("before-open",),
    ),
    Row(
        "K2",
        "killed around a commit of the writer: before it begins, or before anybody is told",
        "what was told is on disk, what is not on disk was not sent",
        _KILLED,
        points=("before-commit", "after-commit"),
    ),
    Row(
        "K3",
        "killed with the intent on disk, before anything is sent",
        "in doubt, then the truth by the booking's mode",
        _KILLED,
        points=("after-open",),
    ),
    Row(
        "K4",
        "killed while the vendor has the request, before its effect",
        "one effect or none, and everybody is told which",
        (
            "tests.faults.cells.gates",
            "tests.e2e.test_killed.test_a_booking_killed_before_its_effect_is_booked_once",
        ),
    ),
    Row(
        "K5",
        "killed after the vendor's effect, before its answer",
        "exactly one effect, and everybody is told so",
        (
            "tests.faults.cells.gates",
            "tests.e2e.test_killed.test_a_booking_killed_between_the_two_writes_is_found_by_recovery_alone",
        ),
    ),
    Row(
        "K6",
        "killed with the vendor's answer in hand, before the outcome is written",
        "the outcome is found again",
        (
            *_KILLED,
            "tests.e2e.test_killed.test_ten_kills_about_the_moment_of_the_answer_leave_one_effect_each",
        ),
        points=("after-answer",),
    ),
    Row(
        "K7",
        "killed with the outcome on disk, before the caller hears it",
        "the repeat is told the stored answer",
        _KILLED,
        points=("after-settle",),
    ),
    Row(
        "K8",
        "killed when recovery has claimed a booking",
        "another process takes it up when the lease ends",
        _KILLED,
        points=("recovery-claimed",),
    ),
    Row(
        "K9",
        "killed when the vendor has answered recovery, before anything is written",
        "the question or the repeat is made again, with one effect in the end",
        _KILLED,
        points=("recovery-answered",),
    ),
    Row(
        "K10",
        "killed when an undo is marked, or the vendor has it",
        "undone once or not at all, and its original says which",
        (
            *_KILLED,
            "tests.faults.cells.gates",
            "tests.booking.test_undo_killed.test_an_undo_that_was_killed_is_repeated_and_undoes_once",
        ),
        points=("undo-beginning", "undo-begun"),
    ),
    Row(
        "K11",
        "killed when an undo has ended, before or after its original follows",
        "the original follows later, once",
        (
            *_KILLED,
            "tests.booking.test_undo_killed.test_a_cancellation_that_was_answered_is_kept_whoever_dies",
        ),
        points=("undo-settled", "undo-followed"),
    ),
    Row(
        "K12",
        "SIGTERM under load; and killed while it drains",
        "what was sent is finished and answered, exit code 0; after a kill the next start goes on",
        (
            *_KILLED,
            "tests.faults.cells.sigterms",
            "tests.e2e.test_leaving.test_sigterm_answers_the_caller_who_waits_and_leaves_nothing_open",
        ),
        points=("draining",),
    ),
    Row(
        "K13",
        "killed while the journal's schema is made",
        "the next start makes it whole",
        _KILLED,
        points=("migrating",),
    ),
    Row(
        "K14",
        "killed while a start takes over what an earlier process left",
        "the next start takes it over",
        _KILLED,
        points=("adopting",),
    ),
    Row(
        "K15",
        "kill -9 at any moment under load, and up again, over and over",
        "nothing lost, doubled or contradicted",
        (
            "tests.faults.cells.random_kills",
            "tests.e2e.test_random_run.test_nothing_is_lost_doubled_or_contradicted",
        ),
    ),
    Row(
        "R1",
        "three gateways on one database (two in the sample); now one is killed, now one is frozen",
        "its open bookings are taken over within the lease and five seconds",
        (
            "tests.faults.cells.replicas",
            "tests.booking.test_replicas.test_a_dead_owners_send_is_taken_over_after_its_lease_and_not_before",
        ),
    ),
    Row(
        "R2",
        "a replica is stopped (SIGSTOP) across the end of its lease, and wakes up",
        "its late write is refused where another one has moved on",
        (
            "tests.faults.cells.replicas",
            "tests.booking.test_replicas.test_a_late_refusal_does_not_end_what_another_has_taken_for_a_doubt",
        ),
    ),
    Row(
        "R3",
        "every replica is ended in good order and started again, one after the other",
        "exit code 0 each; nobody is told anything wrong",
        ("tests.faults.broken_databases.rolling_restarts",),
    ),
    Row(
        "R4",
        "two replicas open the same bookings at the same moment",
        "one wins each, the other meets it",
        ("tests.faults.test_two_writers.test_an_opening_that_loses_a_race_meets_the_winner",),
    ),
)

DATABASES: Final = (
    Row(
        "D1",
        "PostgreSQL crashes or is restarted under load; a synchronous standby is promoted",
        "what was acknowledged stays; ready within five seconds of a restart, and after a promotion"
        " as soon as a standby follows again",
        ("tests.faults.cells.database_restarts", "tests.faults.broken_databases.promotions"),
    ),
    Row(
        "D2",
        "the line breaks exactly at the commit of the intent or of the outcome",
        "nothing is sent or answered before it was read again what stands",
        (
            "tests.faults.broken_databases.cuts",
            "tests.journal.test_group.test_64_callers_whose_group_was_cut_at_its_commit_have_one_effect_each",
        ),
    ),
    Row(
        "D3",
        "nothing comes through and nothing is closed, for seconds",
        "callers are told within their time; ready again by itself",
        (
            "tests.faults.broken_databases.black_holes",
            "tests.journal.test_silence.test_nothing_is_sent_while_the_journal_is_silent",
            "tests.e2e.test_silent_journal.test_sigterm_ends_a_server_in_good_order_although_its_journal_is_silent",
        ),
    ),
    Row(
        "D4",
        "the disk is full, and has room again",
        "nothing is sent meanwhile; probes are told; it goes on by itself",
        (
            "tests.faults.broken_databases.disk_full",
            "tests.booking.test_doubts.test_a_journal_that_cannot_be_written_stops_the_booking_before_the_send",
        ),
    ),
    Row(
        "D5",
        "one write in twenty meets a conflict, a deadlock or a lock; a true deadlock",
        "written again as a whole; no caller is told that the journal is away",
        (
            "tests.faults.contended.conflicts",
            "tests.journal.test_group.test_a_deadlock_with_a_group_costs_none_of_the_64_anything",
        ),
    ),
    Row(
        "D6",
        "the database has no connection left; all readers are busy",
        "told as unavailable, nothing is sent; the writer and recovery have their own connections",
        (
            "tests.faults.contended.no_slots",
            "tests.journal.test_pools.test_readers_who_take_every_connection_leave_the_writer_and_recovery_theirs",
        ),
    ),
    Row(
        "D7",
        "the address leads to a standby, or to a database that is not durable",
        "the start is refused",
        (
            "tests.journal.test_postgres.test_a_database_that_is_read_only_is_refused",
            "tests.journal.test_postgres.test_a_database_that_reports_commits_before_they_are_safe_is_refused",
        ),
    ),
    Row(
        "D8",
        "the database was promoted with commits missing; an older journal is put back",
        "read-only until a person accepts it; the checker sees what is missing, and who repeats is"
        " booked once where the vendor answers a known id again",
        (
            "tests.journal.test_postgres.test_a_promoted_database_is_refused_until_a_person_has_accepted_it",
            "tests.faults.contended.restores",
        ),
    ),
    Row(
        "D9",
        "a bit of a stored answer flips",
        "DATA_LOSS to whoever would be told it, nothing is sent; whole again, the same bytes",
        (
            "tests.faults.contended.damaged_answers",
            "tests.journal.test_journal.test_a_damaged_answer_does_not_hide_the_list_it_stands_in",
        ),
    ),
)

TIMES: Final = (
    Row(
        "T1",
        "the machine's clock is set an hour or ten minutes back or forth between two lives",
        "leases and settle times hold; nothing is taken up too early or never",
        (
            "tests.faults.broken_databases.clocks",
            "tests.journal.test_journal.test_the_clock_never_stands_still_or_goes_back",
        ),
    ),
    Row(
        "T2",
        "the clocks of replicas are hours apart, and apart from the database's",
        "what is stored has the database's time; nothing is taken over too early or too late",
        (
            "tests.faults.broken_databases.rolling_restarts",
            "tests.booking.test_replicas.test_what_is_stored_has_the_databases_time_whatever_this_machine_believes",
        ),
    ),
    Row(
        "T3",
        "a token ends while bookings are under way",
        "renewed once, and each booked once",
        ("loyalty_gateway.conformance.duties.credentials.a_token_that_ended_is_renewed_once",),
    ),
    Row(
        "T4",
        "thousands of calls at random, a seventh with a fault, at each vendor in each of its ways",
        "ledger and journal agree",
        (
            "tests.faults.test_ledgers_agree.test_the_vendors_ledger_and_our_journal_agree",
            "tests.model.test_state_machine.test_undo_cancellation_and_questions_keep_every_promise",
        ),
    ),
)

PLAN: Final = (*KILLS, *VENDORS, *DATABASES, *TIMES)
"""Everything that is done to a gateway, in the order in which it is printed."""

UNTRIED: Final = (
    Untried(
        "P15 of a false vendor",
        "a booking is executed, and its repeat is declined by a vendor that was shown to replay",
        "its word is all that there is, so the booking ends as declined with one effect",
        faults=("decline-on-repeat",),
    ),
    Untried(
        "T5",
        "a vendor's certificate or our secret is changed under load",
        "both are read at the start; changing them is a rolling restart, which is R3",
    ),
    Untried(
        "T6",
        "an hour and more at half of what it can carry",
        "`make faults-nightly` runs longer, and no longer than that",
    ),
    Untried(
        "P6 beyond the settle time",
        "the effect comes later than the vendor's own time and ours",
        "nobody can tell it from a booking that never was; it is no promise of this gateway",
    ),
)
"""What a reader may look for in vain."""
