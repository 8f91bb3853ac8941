"""Use cases, one module a noun: plain functions of a session. They never commit and never see HTTP."""
