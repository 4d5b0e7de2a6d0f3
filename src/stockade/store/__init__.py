"""Where policies live: the local SQLite store; Active Directory and files later."""
