"""Simulated devices, a stand-in for Odoo, and the demo that joins both with the appliance."""
