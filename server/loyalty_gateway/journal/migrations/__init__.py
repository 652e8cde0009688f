"""The journal's history of schemas, forward only, and how a database is brought along it."""

from sqlalchemy import Connection, inspect, select, text

from loyalty_gateway import failpoints
from loyalty_gateway.journal import schema
from loyalty_gateway.journal.store import JournalRefused

_OTHER_SALT = (
    "The outbound salt is not the one this journal was made with; with another salt no booking"
    " would be recognised again. Restore the original keys.outbound_salt."
)


def current_revision(connection: Connection) -> str:
    """The migration that a journal stands at; empty for a new one."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    statement = text("SELECT version_num FROM alembic_version")
    return str(connection.execute(statement).scalar_one())


def migrate(connection: Connection) -> None:
    """Brings a journal to this program's schema, inside the caller's transaction.

    Raises:
        JournalRefused: the journal was made by a newer program.
    """
    if current_revision(connection) == schema.REVISION:
        return
    failpoints.hit("migrating")
    # Imported late: alembic is needed once in a journal's life and takes long to import.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "loyalty_gateway.journal:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise JournalRefused(
            f"The journal stands at a schema this program does not know ({error}); run the"
            " version of the gateway that last used it, or a newer one."
        ) from error


def check_deployment(connection: Connection, salt_check: bytes) -> None:
    """Raises JournalRefused where the journal belongs to another outbound salt."""
    value = select(schema.deployment.c.value).where(schema.deployment.c.name == "salt_check")
    known = connection.execute(value).scalar_one_or_none()
    if known is None:
        # The first of several starting replicas wins; all of them read it back.
        connection.execute(
            text(
                "INSERT INTO deployment (name, value) VALUES ('salt_check', :value)"
                " ON CONFLICT DO NOTHING"
            ),
            {"value": salt_check},
        )
        known = connection.execute(value).scalar_one()
    if bytes(known) != salt_check:
        raise JournalRefused(_OTHER_SALT)


def examine(connection: Connection, salt_check: bytes) -> str:
    """The migration that a journal stands at, empty for a new one; changes nothing.

    Raises:
        JournalRefused: it was made by a newer program, or with another outbound salt.
    """
    revision = current_revision(connection)
    if revision > schema.REVISION:
        raise JournalRefused(
            f"The journal stands at migration {revision}, and this program knows"
            f" {schema.REVISION}; run a version that is as new as the journal."
        )
    if revision:
        value = select(schema.deployment.c.value).where(schema.deployment.c.name == "salt_check")
        known = connection.execute(value).scalar_one_or_none()
        if known is not None and bytes(known) != salt_check:
            raise JournalRefused(_OTHER_SALT)
    return revision
