"""The status pages for people, under ``/ui/``."""
