"""Keeping it: the record of one test, its schema, redaction and storage."""
