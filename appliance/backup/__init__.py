"""Backups of the whole appliance: making, checking and putting back."""
