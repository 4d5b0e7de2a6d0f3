"""Active Directory as a policy store: what applies to this computer, and its objects.

security_descriptor   who may read and apply a group policy object
snapshot              everything read at one time, as one value that can be kept in a file
evaluation            a snapshot -> which policy applies, and the policy itself
ldap                  the connection (GSSAPI, LDAPS, StartTLS; never in clear)
locator               domain controllers by DNS SRV records and sites
reading               a connection -> a snapshot
writing               what an administrator changed -> the steps that bring it into the directory
assignment            which group policy object assigns which policy, and changing that
domain_store          the directory as a store of the command language

The agent reads in a process of its own, which can be ended
(`agent/domain_fetch.py`)."""
