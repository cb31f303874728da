"""SQL behind one writer thread with group commit: embedded SQLite, PostgreSQL by URL."""
