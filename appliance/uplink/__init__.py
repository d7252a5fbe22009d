"""Towards Odoo over HTTP: the client, and the pump that sends what waits in the buffer."""
