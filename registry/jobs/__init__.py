"""Durable work: DBOS workflows that call services. They run in the worker process and survive its death."""
