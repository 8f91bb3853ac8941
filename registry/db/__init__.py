"""Rows: tables, sessions, and reads that join. No behaviour: the rules are in `registry.domain`."""
