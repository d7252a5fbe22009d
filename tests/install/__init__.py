"""The installation, in fresh Debian systems that have booted."""
