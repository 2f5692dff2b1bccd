"""Run by alembic for every upgrade; the connection, with its transaction, comes from `nas.store._schema`."""

from alembic import context

from nas.store._tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
