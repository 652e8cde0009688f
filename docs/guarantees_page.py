"""docs/guarantees.md: what is promised, how it is tried, and what the last full runs found."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.branches import LEFT
from tests.faults.plan import DATABASES, INVARIANTS, KILLS, TIMES, UNTRIED, VENDORS
from tests.planted.plants import PLANTS

RUNS: Final = Path(__file__).with_name("fault-runs.json")
COLUMNS: Final = (
    "cell",
    "kills",
    "harms",
    "keys",
    "acked",
    "in doubt",
    "resolved",
    "alone",
    "review",
)

PROMISES: Final = """\
# Guarantees

<!-- Made by `make docs` from docs/guarantees_page.py, tests/faults/plan.py and the last runs. -->

What callers and operators may rely on, what nobody can promise, and how to see for yourself. Every
sentence of the first two lists is judged by a checker that stands outside: it compares what callers
heard, what the vendors' ledgers hold and what the journal says.

## To callers

1. **At most once.** For one `request_id` of one tenant there is at most one net effect at the
   vendor, however often and in whatever order the call is repeated, cancelled, cut off or sent to
   another replica, and whichever process dies in between.
2. **OK means done.** An OK is told only after the vendor's confirmation is on disk. It is never
   taken back: every repeat answers the same bytes, with the trailer `loyalty-replayed: true`.
3. **NOT_EXECUTED means not done.** An error with the outcome `NOT_EXECUTED` and `final: true` has
   no effect and never will have one under that `request_id`. Without `final` nothing was done *so
   far*.
4. **Unknown is called unknown.** A lost answer is `UNKNOWN`, never "failed" and never "fine". No
   timer turns it into either.
5. **The truth can be had.** Repeating the same call is always safe and brings the outcome as soon
   as it is known; `GetBooking` tells it without trying anything.
6. **A `request_id` belongs to one content.** The same one with another amount, account or method is
   refused (`REQUEST_ID_REUSED`) and changes nothing.
7. **Cancelled is closed.** Once `CancelBooking` was answered OK the `request_id` books nothing any
   more, also when its booking arrives only afterwards, and what it booked is being undone;
   `GetBooking` tells the end. Where no machine can undo, the answer is `CANCEL_NOT_POSSIBLE` with
   the true outcome; where the vendor refuses the undo, the booking stands, and says so; where the
   undo could not even be sent for a day, a person decides.
8. **Undone once.** A booking is undone whole and once. What was undone says so, and its undo is a
   booking with a story of its own.

## To operators

1. **The intent comes first.** Nothing is sent to a vendor before the booking is committed with
   everything that is needed to find out about it; nothing but `UNKNOWN` is said before the outcome
   is.
2. **Doubt ends by itself where the vendor lets it.** A booking in doubt is resolved by the mode
   that [providers.md](providers.md) names, without a person. `NEEDS_REVIEW` is for the mode
   `MANUAL`, which is also what is left when the time for sending again (half of the vendor's
   memory) or for asking (`recovery.give_up_s`) is over; for evidence that contradicts itself; for a
   doubt whose connection, address, credential or sealing key is gone or another by now; and for an
   undo that could not be carried out, or was refused where only it could end a doubt.
3. **Nothing is sent twice on a guess.** A booking is sent again only under a promise of the vendor
   that was seen to hold (`loyalty prove`) or that you have declared, or where twice is the same as
   once (changes, links, activations); and only within half of the time that the vendor remembers.
4. **Any process may die at any moment**, by SIGKILL, by a frozen machine, by a lost database or a
   full disk; the others, or the next start, take its bookings over. No order of starting, stopping
   or rolling out matters.
5. **Every step is written down.** The journal holds each state with its time, actor and reason,
   without gaps; `loyalty bookings explain` reads it out.
6. **No secret, card number or code** stands in a log, a span, a metric, an error or the journal in
   the clear.

## What cannot be promised

- **A vendor that lies.** One that says "booked" and books nothing, that refuses with a documented
  refusal and books all the same, or that calls a redemption "reversed before" when it is not, fools
  every client. Its word is all that there is; comparing statements finds it out.
- **A refusal of a repeat, later than the settle time.** When an answer was lost and the booking is
  sent again (because the vendor was shown to recognise repeats), a listed refusal of the repeat is
  taken for the whole booking once `engine.settle_s` has passed since the doubt. A vendor that
  booked the first one and then *declines* its repeat, instead of replaying it, breaks the promise
  that was proven, and the booking ends `DECLINED` with one effect. The fault `decline-on-repeat` of
  the sandbox shows it; the runs below leave it out.
- **A refusal of what is sent again without a key.** Changes, links and activations are sent again
  because twice is the same as once; the vendor judges each attempt anew. A refusal of a repeat then
  says nothing of the first one, unless it is of the request itself: the booking stays in doubt,
  holds its account, and ends with a person when half of the vendor's memory is over.
- **A vendor that executes very late**, after its own time limits and ours (`engine.settle_s`): what
  was found absent, as often as is asked for, can still appear.
- **No way to ask.** Where a vendor neither recognises a repeated id nor can be asked, a lost answer
  ends with a person. providers.md has `MANUAL` in such cells.
- **AUTO_REVERSE while the journal is away.** A caller who hears `UNKNOWN`, or nothing in time,
  while its wish cannot be written relies on the process that it asked: a success that is written
  first is undone a moment later, and whoever asked another replica in between has heard OK. Where
  that process is killed before the journal is back, another replica wrote the success, or it was
  written just before the caller left, the booking stands, and a repeat says so.
- **A frozen replica.** One that is stopped in the middle of a booking for longer than its lease and
  then wakes up may still send; until then another one may have found out otherwise. Its write is
  refused (the epoch has moved on), but bytes on a wire cannot be called back. A vendor that
  recognises repeated ids closes that window.
- **A journal restored from an older backup** does not know the bookings made since. Their ids are
  derived, so a repeat is sent under the same id as before and books once only where the vendor
  recognises it. See [operations.md](operations.md).
- **A balance may be another member's for a moment** where a vendor sends a second, unasked answer
  on a kept connection: reads may share connections, and not every vendor's answer says whose
  balance it is. Bookings, codes, and everything that is read for one, have a connection of their
  own.
- **A hold has no age.** Where a vendor cannot tell two bookings on one account apart, the account
  waits until the one in doubt is settled, by a machine or by a person, however long that takes.
- **Zero in N is no proof of never.** With 95 % confidence, no violation after N kills says that
  less than 3/N of such kills lead to one. Therefore each step at which a process can die has a cell
  of its own, where it dies exactly there.
"""

HOW: Final = """\
## See for yourself

```sh
make faults-quick            # a sample, some minutes; a part of the gate of every change
make faults                  # all of it, 22 to 25 minutes on two cores with nothing beside it
make faults ARGS="--seed 7"  # the choices of another run with this seed, as far as time lets it
make faults-nightly          # all of it three times, each random part longer
```

`make faults` makes 2,000 calls at random for each vendor in each of the ways in which it may
behave (a repeated id replays, is refused, books again; and so on), a seventh of them with a fault,
and compares ledger and journal. Beside that it runs real gateways on SQLite and on PostgreSQL, one
and three of them, against all four played vendors, and hurts them as the table says. It ends with
`0 lost, 0 double, 0 contradicted`, or with every violation, the timeline of each booking that it
was seen at, the seed, and the folder where journals, ledgers and logs are left. A run in which too
little happened is `INVALID` and fails as well: each cell has floors for what it must have hit. The
report for programs is `.build/faults.json`.
"""


def guarantees_page() -> str:
    """The page, from the plan and the runs that are kept."""
    runs: list[dict[str, Any]] = json.loads(RUNS.read_text(encoding="utf-8"))
    parts = [PROMISES, *_invariants(), *_plan(), HOW, *_runs(runs)]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _invariants() -> Iterator[str]:
    rows = [(it.label, it.text, f"`{it.judged_by}`") for it in INVARIANTS]
    yield "## What has to be true\n"
    yield _table(("", "once all has come to rest", "judged by"), rows)


def _plan() -> Iterator[str]:
    yield "## What is done to it\n"
    for title, rows in (
        ("Processes are killed, frozen and replaced", KILLS),
        ("The vendor or the way to it fails", VENDORS),
        ("The database fails", DATABASES),
        ("Time passes", TIMES),
    ):
        yield f"### {title}\n"
        yield _table(
            ("", "what is done", "what must come of it", "where"),
            [(it.label, it.done, it.expected, f"`{it.where}`") for it in rows],
        )
    yield "### What is not tried\n"
    yield _table(("", "what", "why"), [(it.label, it.text, it.reason) for it in UNTRIED])
    yield "### Bugs that are planted\n"
    yield (
        "A checker that finds nothing may be blind. So each of these bugs is planted into the real"
        " code for the length of a test, and has to be found; without it nothing may be"
        " (`tests/planted`).\n"
    )
    yield _table(("", "bug"), [(name, plant.title) for name, plant in PLANTS.items()])
    yield "### Branches that no test is sure to take\n"
    yield (
        "`make coverage` demands that tests take 98 % of the branches of the states, the engine,"
        " the journal and recovery, and that each function with a branch that is left stands here"
        " with the reason.\n"
    )
    yield _table(("", "why"), [(f"`{name}`", why) for name, why in LEFT.items()])


def _runs(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "## The last full runs\n"
    for run in runs:
        whole = run["cells"][-1]
        yield (
            f"Seed {run['seed']}, {run['day']}, {run['machine']}:"
            f" {run['seconds'] / 60:.0f} minutes, {whole['kills']} kills, {whole['keys']} keys,"
            f" {whole['resolved']} of {whole['in_doubt']} doubts resolved,"
            f" {whole['resolved_alone']} of them without a person (half of these within"
            f" {_seconds(whole['p50_s'])}, 95 % within {_seconds(whole['p95_s'])}, with the timers"
            " of the tests),"
            f" **{whole['violations']} violations**.\n"
        )
    if not runs:
        return
    last = runs[-1]
    yield f"Cell by cell, seed {last['seed']}:\n"
    yield _table(
        (*COLUMNS, "p50", "p95", "violations"),
        [
            (
                cell["cell"],
                *(str(cell[name]) for name in ("kills", "harms", "keys", "acked")),
                *(str(cell[name]) for name in ("in_doubt", "resolved", "resolved_alone")),
                str(cell["needs_review"]),
                _seconds(cell["p50_s"]),
                _seconds(cell["p95_s"]),
                str(cell["violations"]),
            )
            for cell in last["cells"]
        ],
    )
    yield (
        "*kills*: gateways ended by SIGKILL and databases by a crash; *harms*: whatever else was"
        " done, as an end in good order, a line that was cut, or a full disk; *in doubt*: keys"
        " whose caller heard `UNKNOWN`, or no answer at all; *resolved*: those that have a final"
        " outcome in the end, and *alone* those of these for which no person was asked; *review*:"
        " bookings that needed a person, by the reasons below; p50 and p95: how long the journal"
        " had what was resolved alone in doubt, where it had.\n"
    )
    yield _table(
        ("needed a person", "rpc", "mode", "reason", "bookings"),
        [
            (it["connection"], it["method"], it["mode"], it["reason"], str(it["count"]))
            for it in last["reviews"]
        ],
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
