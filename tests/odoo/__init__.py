"""A real Odoo for the tests: how it is got, kept, started and asked. Standard library only; see README.md."""
