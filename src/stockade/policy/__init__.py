"""The policy model of Windows and its compiler: rules and filters -> weights -> filter table. Pure."""
