"""A stand-in for Odoo: the contract's Odoo side without Odoo, with failures on request."""
