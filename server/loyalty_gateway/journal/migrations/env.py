"""Runs migrations on the connection that the journal hands over; never opens one itself."""

from alembic import context

from loyalty_gateway.journal.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
