"""Where commands are kept: PostgreSQL or SQLite through SQLAlchemy Core. All SQL of the project is in here."""
