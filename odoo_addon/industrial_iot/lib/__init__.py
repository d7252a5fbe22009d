"""What needs no Odoo: times, tokens, topics, JSON, templates. Nothing in here imports ``odoo``."""
