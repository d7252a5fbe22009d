"""The store: one SQLite file, one writer thread; buffer, outbox, devices, ledger."""
