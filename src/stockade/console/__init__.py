"""What people touch: the command line. Clients of the local API and of the policy store."""
