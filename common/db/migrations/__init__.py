"""How the schema came to be, a file a step. Alembic reads them in the order that each names the one before."""
