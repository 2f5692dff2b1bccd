"""Run by alembic for every upgrade, whose connection and transaction are `nas.store.connection.schema`'s."""

from alembic import context

from nas.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
