"""Active Directory as a policy store: what applies to this computer, and its objects.

security_descriptor   who may read and apply a group policy object
snapshot              everything read at one time, as one value that can be kept in a file
evaluation            a snapshot -> which policy applies, and the policy itself
ldap                  the connection (GSSAPI, LDAPS, StartTLS; never in clear)
locator               domain controllers by DNS SRV records and sites
reading               a connection -> a snapshot
writing               a changed policy set -> changes of objects, in an order that is safe half-way
store                 `PolicyStore` over a connection, for the command language
fetch                 the program that an agent runs: the snapshot, read in a process that can be ended"""
