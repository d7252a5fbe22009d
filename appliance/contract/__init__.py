"""Topics, payloads, Odoo bodies and error codes: what device, appliance and Odoo agree on (version 1)."""
