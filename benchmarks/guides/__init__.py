"""Guides benchmark: what ``certify`` says of guides of all kinds, and whether it is true."""
