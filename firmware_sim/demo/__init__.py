"""The demo: stand-in, appliance and devices on this machine, a line that shows them work, and a check at the end."""
