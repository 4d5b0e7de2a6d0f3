"""Where policies live: the local SQLite store (`local`); Active Directory and files later."""
