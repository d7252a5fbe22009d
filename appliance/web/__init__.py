"""The HTTP API, for Odoo and for people."""
