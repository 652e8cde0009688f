"""`loyalty prove`: has a running server put a connection's promises to the proof."""

from rich.text import Text

from loyalty.v1 import providers_pb2
from loyalty_gateway.cli.asking import Asked, open_server
from loyalty_gateway.cli.client import to_json
from loyalty_gateway.cli.failure import REFUSED_EXIT_CODE
from loyalty_gateway.cli.screen import Screen, clean, new_table, time_text

_HOLDS = {"yes": "green", "no": "bold red"}


def run_prove(connection: str, *, server: str, timeout: float, is_json: bool) -> int:
    """Prints what became of each promise; 1 where one could not be put to the proof."""
    asked = Asked(server=server, timeout=timeout, json=is_json)
    request = providers_pb2.ProveConnectionRequest(connection=connection)
    with open_server(asked) as running:
        answer = running.call(running.providers.ProveConnection, request)
    if is_json:
        print(to_json(answer))
    else:
        _show(Screen(), connection, answer)
    is_shown = all(not promise.not_shown for promise in answer.promises)
    return 0 if is_shown else REFUSED_EXIT_CODE


def _show(screen: Screen, connection: str, answer: providers_pb2.ProveConnectionResponse) -> None:
    if not answer.promises:
        screen.show(Text(f"Nothing of {clean(connection)} can be put to the proof."))
        return
    table = new_table("PROMISE", "HOLDS", "DATE")
    table.add_column("EVIDENCE", overflow="fold")
    for promise in answer.promises:
        holds = Text(clean(promise.value), _HOLDS.get(promise.value, ""))
        evidence = clean(promise.evidence)
        if promise.not_shown:
            holds = Text("not shown", "yellow")
            before = f"; before: {clean(promise.value)}"
            source = providers_pb2.PromiseSource.Name(promise.source)
            before += f", {source.removeprefix('PROMISE_SOURCE_').lower()}"
            evidence = clean(promise.not_shown) + before
        date = time_text(promise.time) if promise.HasField("time") else ""
        table.add_row(Text(clean(promise.name)), holds, Text(date), Text(evidence))
    screen.show(table)
