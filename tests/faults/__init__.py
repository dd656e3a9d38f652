"""Migrations that something goes wrong under: processes killed, connections cut, slots moved."""
