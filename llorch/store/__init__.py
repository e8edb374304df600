"""What survives the process: states in SQLite (the only importer of sqlite3), tokens in append-only segment files."""
