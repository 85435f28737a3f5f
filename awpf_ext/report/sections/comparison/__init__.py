"""Sections of the report that compare several runs."""
