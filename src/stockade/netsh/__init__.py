"""The command language `netsh ipsec` as a table: grammar, parsing, help, the layouts of `show`. Pure."""
