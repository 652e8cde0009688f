"""The journal on PostgreSQL: set-based statements, one commit each, for any number of replicas.

A batch travels as JSON and is read back by the table's own row type, so one statement with one
parameter serves a batch of any size and its plan is made once.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from psycopg.errors import ConnectionTimeout
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from loyalty_gateway.journal import migrations, schema
from loyalty_gateway.journal.line import BoundedConnection
from loyalty_gateway.journal.store import Examination, JournalRefused, Row, Trouble

log = logging.getLogger(__name__)

_CONNECT_S = 2
# A process that starts beside others on a busy machine is let connect more than once.
_FIRST_CONNECT_S = 10.0
_STATEMENT_MS = 5_000
_LOCK_MS = 2_000
# The server's limit, and time for its refusal to come back.
_SILENCE_S = _STATEMENT_MS / 1_000 + 2
# Of a transaction whose client is not heard any more, so that its locks do not outlive it long.
_IDLE_MS = 10_000
# A migration may rewrite a large table, and is still not waited for without end.
_MIGRATION_S = 3_600.0
_READERS = 4
_BACKGROUND = 2
_CLOCK_AGAIN_S = 10.0
_MIGRATION_LOCK = 0x10_7A_17_96

_RETRIED = frozenset({"40001", "40P01", "55P03"})
# A write refused as read-only: behind this address there may be a standby by now.
_ANOTHER_SERVER = frozenset({"25006"})
# Disk full, out of memory, too many connections, read-only: the server says no, for now.
_REFUSED_CLASSES = ("53", "57", "58", "25", "42", "28", "3D", "08")

_mutable = ", ".join(schema.MUTABLE)
_mutable_from = ", ".join(f"x.{name}" for name in schema.MUTABLE)

_INSERT = text(
    "WITH i AS ("
    " INSERT INTO booking SELECT r.* FROM"
    " json_populate_recordset(NULL::booking, CAST(:bookings AS json)) r"
    f" WHERE r.operation IN {schema.UNDOES} OR"
    " NOT EXISTS (SELECT 1 FROM account_hold h WHERE h.tenant = r.tenant"
    " AND h.connection = r.connection AND h.account_hash = r.account_hash)"
    " ON CONFLICT (tenant, request_id) DO NOTHING RETURNING tenant, booking_id),"
    " h AS ("
    " INSERT INTO history SELECT n.* FROM"
    " json_populate_recordset(NULL::history, CAST(:histories AS json)) n"
    " JOIN i USING (tenant, booking_id))"
    " SELECT booking_id FROM i"
)
_UPDATE = text(
    "WITH x AS MATERIALIZED ("
    " SELECT * FROM json_populate_recordset(NULL::booking, CAST(:bookings AS json))),"
    " n AS MATERIALIZED ("
    " SELECT * FROM json_populate_recordset(NULL::history, CAST(:histories AS json))),"
    # Locked in one order everywhere, so that two replicas never wait for each other.
    " l AS MATERIALIZED ("
    " SELECT b.tenant, b.booking_id FROM booking b JOIN x USING (tenant, booking_id)"
    " ORDER BY b.tenant, b.booking_id FOR UPDATE OF b),"
    " u AS ("
    f" UPDATE booking b SET ({_mutable}) = ROW({_mutable_from})"
    " FROM x JOIN n USING (tenant, booking_id) JOIN l USING (tenant, booking_id)"
    " WHERE b.tenant = x.tenant AND b.booking_id = x.booking_id"
    " AND b.epoch = x.epoch - 1 AND b.state = n.from_state"
    " RETURNING b.tenant, b.booking_id),"
    " h AS ("
    " INSERT INTO history SELECT n.* FROM n JOIN u USING (tenant, booking_id)),"
    " a AS ("
    " INSERT INTO attempt SELECT t.* FROM"
    " json_populate_recordset(NULL::attempt, CAST(:attempts AS json)) t"
    " JOIN u USING (tenant, booking_id)"
    " ON CONFLICT (tenant, booking_id, number) DO NOTHING),"
    # What is this booking's already stays so; what is another's breaks the key.
    " v AS ("
    " INSERT INTO vendor_reference SELECT c.* FROM"
    " json_populate_recordset(NULL::vendor_reference, CAST(:claims AS json)) c"
    " JOIN u USING (tenant, booking_id)"
    " WHERE NOT EXISTS (SELECT 1 FROM vendor_reference k WHERE k.tenant = c.tenant"
    " AND k.connection = c.connection AND k.kind = c.kind AND k.value = c.value"
    " AND k.booking_id = c.booking_id))"
    " SELECT booking_id FROM u"
)
_CLAIM = text(
    "WITH c AS ("
    " SELECT tenant, booking_id, state FROM booking"
    " WHERE tenant = :tenant AND next_attempt_time <= :now_us"
    f" AND {schema.IS_OPEN}"
    " AND (lease_until IS NULL OR lease_until <= :now_us)"
    " AND booking_id <> ALL(CAST(:flying AS text[]))"
    " AND (state <> 'IN_DOUBT' OR connection <> ALL(CAST(:paused AS text[])))"
    " ORDER BY next_attempt_time LIMIT :limit FOR UPDATE SKIP LOCKED),"
    " u AS ("
    " UPDATE booking b SET owner = :owner, lease_until = :now_us + :lease_us,"
    " next_attempt_time = :now_us + :lease_us, epoch = b.epoch + 1"
    " FROM c WHERE b.tenant = c.tenant AND b.booking_id = c.booking_id"
    " RETURNING b.tenant, b.booking_id, b.epoch, b.state),"
    " h AS ("
    " INSERT INTO history (tenant, booking_id, sequence, from_state, to_state, actor, time, note)"
    " SELECT tenant, booking_id, epoch, state, state, 'recovery', :now_us, 'taken up' FROM u)"
    " SELECT booking_id FROM u"
)

_TRY_ALONE = text("SELECT pg_try_advisory_lock(hashtextextended('loyalty-gateway ' || :name, 0))")


def _json(rows: Sequence[Row]) -> str:
    return json.dumps(rows, default=_hex, separators=(",", ":"))


def _hex(value: object) -> str:
    """bytea in PostgreSQL's own spelling."""
    assert isinstance(value, bytes), "a row holds text, integers, bytes and nothing else"
    return "\\x" + value.hex()


class PostgresStore:
    """A PostgreSQL database, 14 or newer.

    `ha` is "synchronous" where a synchronous standby stands behind it: then a promotion loses
    no commit. With "none" a changed timeline may have lost some, so the journal stays read-only
    until an operator has accepted it (`loyalty journal accept`). A line on which a statement has
    no answer for `silence_max_s` is given up.
    """

    is_shared = True

    def __init__(
        self,
        dsn: str,
        *,
        ha: Literal["none", "synchronous"] = "none",
        silence_max_s: float = _SILENCE_S,
    ) -> None:
        self._ha = ha
        self._silence_max_s = silence_max_s
        self._writers_pid = 0
        self.engine = self._make(dsn, _READERS, is_writer=False)
        self.background = self._make(dsn, _BACKGROUND, is_writer=False)
        self._writers = self._make(dsn, 1, is_writer=True)
        self._clock_lock = threading.Lock()
        self._clock_offset_us = 0
        self._clock_read_s = 0.0
        self._last_us = 0

    def _make(self, dsn: str, size: int, *, is_writer: bool) -> Engine:
        url = dsn
        for prefix in ("postgresql://", "postgres://"):
            if url.startswith(prefix):
                url = "postgresql+psycopg://" + url.removeprefix(prefix)
        # A plan made while the table was empty scans the whole of it for ever.
        planning = " -c enable_seqscan=off" if is_writer else ""
        engine = create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            pool_size=size,
            max_overflow=0,
            pool_timeout=_CONNECT_S,
            connect_args={
                "connect_timeout": _CONNECT_S,
                "application_name": "loyalty-gateway",
                # A vanished server is noticed by the kernel, not by a person.
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "tcp_user_timeout": _STATEMENT_MS,
                "options": f"-c statement_timeout={_STATEMENT_MS} -c lock_timeout={_LOCK_MS}"
                # And a vanished client by the server, which keeps its locks until then.
                f" -c idle_in_transaction_session_timeout={_IDLE_MS}"
                f" -c tcp_user_timeout={_STATEMENT_MS}"
                " -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2"
                f" -c tcp_keepalives_count=3{planning}",
            },
        )

        @event.listens_for(engine, "do_connect")
        def _connect(
            _dialect: Any, _record: Any, args: Sequence[Any], parameters: Mapping[str, Any]
        ) -> BoundedConnection:
            connection = BoundedConnection.connect(*args, **parameters)
            connection.silence_max_s = self._silence_max_s
            return connection

        @event.listens_for(engine, "connect")
        def _prepare(dbapi_connection: Any, _record: Any) -> None:
            # The few statements of the hot path are prepared at once.
            dbapi_connection.prepare_threshold = 2

        return engine

    # --- life -------------------------------------------------------------------------------

    def start(self, salt_check: bytes) -> None:
        try:
            self._wait_for_line()
            self._migrate()
            with self.engine.connect() as connection:
                migrations.check_deployment(connection, salt_check)
            self.writer().close()
        except SQLAlchemyError as error:
            raise JournalRefused(
                "The journal's database cannot be used:"
                f" {type(getattr(error, 'orig', None) or error).__name__}. Is it up, and may"
                " this user connect, create tables and write?"
            ) from error

    def _wait_for_line(self) -> None:
        """Whoever refuses says so at once; only what says nothing in time is asked again."""
        ends_s = time.monotonic() + _FIRST_CONNECT_S
        while True:
            try:
                return self.background.connect().close()
            except OperationalError as error:
                is_slow = isinstance(error.orig, ConnectionTimeout)
                if not is_slow or time.monotonic() + _CONNECT_S > ends_s:
                    raise

    def _migrate(self) -> None:
        with self.background.connect() as connection:
            if migrations.current_revision(connection) == schema.REVISION:
                return
        # One transaction for all of it, under a lock that other starting replicas wait for.
        transactional = self.background.execution_options(isolation_level="READ COMMITTED")
        with transactional.begin() as connection:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            connection.execute(text("SET LOCAL lock_timeout = '60s'"))
            with self._patient(connection):
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK}
                )
                migrations.migrate(connection)

    @contextmanager
    def _patient(self, connection: Connection) -> Iterator[None]:
        line = connection.connection.dbapi_connection
        assert isinstance(line, BoundedConnection), "every connection here is made as one"
        line.silence_max_s = _MIGRATION_S
        try:
            yield
        finally:
            line.silence_max_s = self._silence_max_s

    def stop(self) -> None:
        for engine in (self.engine, self.background, self._writers):
            engine.dispose()

    def examine(self, salt_check: bytes) -> Examination:
        try:
            with self.background.connect() as connection:
                self._check_settings(connection)
                revision = migrations.examine(connection, salt_check)
                if revision and self._ha == "none":
                    self._check_timeline(connection, is_kept=False)
                self._read_clock(connection)
        except SQLAlchemyError as error:
            raise JournalRefused(
                "The journal's database cannot be used:"
                f" {type(getattr(error, 'orig', None) or error).__name__}. Is it up, and may"
                " this user connect and read?"
            ) from error
        return Examination(revision, clock_skew_s=(self.now_us() - time.time_ns() // 1000) / 1e6)

    def writer(self) -> Connection:
        connection = self._writers.connect()
        try:
            self._check_last_commit(connection)
            self._check_durability(connection)
            self._read_clock(connection)
            self._writers_pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        return connection

    def _check_last_commit(self, connection: Connection) -> None:
        """A commit waits for its standby without end, and its server's process with it: given up
        here, it still stands there, and each try to write beside it would leave one more."""
        waiting = connection.execute(
            text("SELECT 1 FROM pg_stat_activity WHERE pid = :pid AND wait_event = 'SyncRep'"),
            {"pid": self._writers_pid},
        ).first()
        if waiting is not None:
            raise JournalRefused(
                "The last commit waits for a synchronous standby: is there one that follows?"
            )

    def _check_durability(self, connection: Connection) -> None:
        """At the start and after every reconnect: it may be another server by now."""
        self._check_settings(connection)
        if self._ha == "none":
            self._check_timeline(connection)

    def _check_settings(self, connection: Connection) -> None:
        row = connection.execute(
            text(
                "SELECT pg_is_in_recovery() AS is_standby,"
                " current_setting('transaction_read_only') AS read_only,"
                " current_setting('fsync') AS fsync,"
                " current_setting('full_page_writes') AS full_page_writes,"
                " current_setting('synchronous_commit') AS synchronous_commit,"
                " current_setting('synchronous_standby_names') AS standbys,"
                " current_setting('server_version_num')::int AS version"
            )
        ).one()
        problems = durability_problems(row, ha=self._ha)
        if problems:
            raise JournalRefused("The journal's database is not durable: " + "; ".join(problems))

    @staticmethod
    def _check_timeline(connection: Connection, *, is_kept: bool = True) -> None:
        """`is_kept` writes a first timeline down, which all later ones are compared with."""
        timeline = _timeline(connection)
        known = connection.execute(
            text("SELECT value FROM deployment WHERE name = 'timeline'")
        ).scalar_one_or_none()
        if known is None:
            if is_kept:
                connection.execute(
                    text(
                        "INSERT INTO deployment (name, value) VALUES ('timeline', :timeline)"
                        " ON CONFLICT DO NOTHING"
                    ),
                    {"timeline": timeline},
                )
        elif bytes(known) != timeline:
            raise JournalRefused(
                "The journal's database was promoted from a standby that may lack the last"
                " commits: bookings could be forgotten and sent twice. Compare the vendors'"
                " statements, then run `loyalty journal accept`."
            )

    def accept_timeline(self) -> None:
        """A person takes the responsibility for what a promotion may have lost."""
        with self.background.connect() as connection:
            connection.execute(
                text(
                    "INSERT INTO deployment (name, value) VALUES ('timeline', :timeline)"
                    " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
                ),
                {"timeline": _timeline(connection)},
            )

    # --- statements --------------------------------------------------------------------------

    def begin_whole(self, connection: Connection) -> None:
        # The connection commits each statement by itself; the end of the batch ends this too.
        connection.exec_driver_sql("BEGIN")

    def lock_account(self, connection: Connection, account_hash: bytes) -> None:
        number = int.from_bytes(account_hash[:8], "big", signed=True)
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})

    def insert(
        self, connection: Connection, bookings: Sequence[Row], histories: Sequence[Row]
    ) -> set[str]:
        parameters = {"bookings": _json(bookings), "histories": _json(histories)}
        return set(connection.execute(_INSERT, parameters).scalars())

    def update(
        self,
        connection: Connection,
        bookings: Sequence[Row],
        histories: Sequence[Row],
        attempts: Sequence[Row],
        references: Sequence[Row] = (),
    ) -> set[str]:
        parameters = {
            "bookings": _json(bookings),
            "histories": _json(histories),
            "attempts": _json(attempts),
            "claims": _json(references),
        }
        return set(connection.execute(_UPDATE, parameters).scalars())

    def claim(
        self,
        connection: Connection,
        tenant: str,
        owner: str,
        now_us: int,
        lease_us: int,
        limit: int,
        flying: Sequence[str],
        paused: Sequence[str],
    ) -> set[str]:
        parameters: Mapping[str, Any] = {
            "tenant": tenant,
            "owner": owner,
            "now_us": now_us,
            "lease_us": lease_us,
            "limit": limit,
            "flying": list(flying),
            "paused": list(paused),
        }
        return set(connection.execute(_CLAIM, parameters).scalars())

    def try_alone(self, name: str) -> Callable[[], None] | None:
        # The lock ends with its session, which therefore belongs to no pool.
        connection = self.background.connect()
        try:
            connection.detach()
            is_taken = connection.execute(_TRY_ALONE, {"name": name}).scalar_one()
        except BaseException:
            connection.close()
            raise
        if is_taken:
            return connection.close
        connection.close()
        return None

    # --- the database's clock ------------------------------------------------------------------

    def _read_clock(self, connection: Connection) -> None:
        before_us = time.monotonic_ns() // 1000
        now_us = connection.execute(
            text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
        ).scalar_one()
        middle_us = (before_us + time.monotonic_ns() // 1000) // 2
        with self._clock_lock:
            self._clock_offset_us = now_us - middle_us
            self._clock_read_s = time.monotonic()

    def keep_clock(self, connection: Connection) -> None:
        """Reads the clock again when the last reading is old; called between batches."""
        if time.monotonic() - self._clock_read_s > _CLOCK_AGAIN_S:
            self._read_clock(connection)

    def now_us(self) -> int:
        with self._clock_lock:
            now_us = time.monotonic_ns() // 1000 + self._clock_offset_us
            # Never backwards within one process, so that history sorts as it happened.
            self._last_us = max(self._last_us + 1, now_us)
            return self._last_us

    # --- errors ------------------------------------------------------------------------------

    def trouble(self, error: BaseException) -> Trouble:
        if isinstance(error, PoolTimeout):
            return Trouble.REFUSED
        if not isinstance(error, DBAPIError):
            return Trouble.ROW
        state = getattr(error.orig, "sqlstate", None)
        if error.connection_invalidated or state is None or state in _ANOTHER_SERVER:
            return Trouble.LOST
        if state in _RETRIED:
            return Trouble.RETRY
        if state.startswith(("57P", "08")):
            return Trouble.LOST
        return Trouble.REFUSED if state.startswith(_REFUSED_CLASSES) else Trouble.ROW


def durability_problems(row: Any, *, ha: str) -> list[str]:
    """What speaks against a server with these settings."""
    problems = []
    if row.version < 140_000:
        problems.append("it is older than PostgreSQL 14")
    if row.is_standby or row.read_only == "on":
        problems.append("it is a standby, or read-only")
    if row.fsync != "on" or row.full_page_writes != "on":
        problems.append("fsync or full_page_writes is off")
    if row.synchronous_commit not in ("on", "remote_apply"):
        problems.append(f"synchronous_commit is {row.synchronous_commit}, not on")
    if ha == "synchronous" and not row.standbys:
        problems.append("journal.ha is synchronous, but there is no synchronous standby")
    return problems


def _timeline(connection: Connection) -> bytes:
    name = connection.execute(text("SELECT pg_walfile_name(pg_current_wal_lsn())")).scalar_one()
    return str(name)[:8].encode()
