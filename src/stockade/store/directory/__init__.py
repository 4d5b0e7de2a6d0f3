"""Active Directory as a policy store: what applies to this computer, and its objects.

security_descriptor   who may read and apply a group policy object
snapshot              everything read at one time, as one value that can be kept in a file
evaluation            a snapshot -> which policy applies, and the policy itself
ldap                  the connection (GSSAPI, LDAPS, StartTLS; never in clear)
locator               domain controllers by DNS SRV records and sites
reading               a connection -> a snapshot

Writing is not here yet. The agent reads in a process of its own, which can be ended
(`agent/domain_fetch.py`)."""
