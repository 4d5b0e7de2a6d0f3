"""Explaining what is in force: what happens to a packet, and why. Pure functions over the filter table."""
