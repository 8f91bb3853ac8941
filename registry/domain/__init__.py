"""Rules, and nothing else.

Standard library only, no I/O, no clock: times, rows and random bytes come in as arguments.
"""
