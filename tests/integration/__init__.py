"""Migrations between real servers, through the Python API: what arrives, and what is refused."""
